/**
 * realizehit for JavaScript: the API client. It publishes single messages and batches over HTTP, with time-outs and retries.
 *
 * `api.js` and the files made of it in `lib/` are built from `src/api/`: `npm run build`.
 *
 * @license MIT
 * @module
 */
export { RealizehitError } from "../error.js";
export { APIError, BadPattern, Forbidden, NotAuthenticated, PublishUnclear, RateLimited, TooLarge, Unavailable } from "./errors.js";
export { RawJSON } from "./message.js";
export { APIClient } from "./client.js";

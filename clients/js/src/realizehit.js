/**
 * realizehit for JavaScript: `WSClient` subscribes, `APIClient` publishes. It has no dependencies and runs in browsers,
 * Node.js, Deno and Bun.
 *
 * `realizehit.js` and everything in `lib/` is built from `src/`: `npm run build`.
 *
 * @license MIT
 * @module
 */
export { Subscription } from "./subscription.js";
export { RealizehitError } from "./error.js";
export { WSClient } from "./client.js";
export { APIClient } from "./api_client.js";

/** The close code after which a client needs a fresh token: its token has ended, or the token's key was replaced. */
export const EXPIRED = 4501;
/** HTTP statuses and close codes after which a client does not reconnect. */
export const FINAL_STATUS = /^(401|403|4[5-9]\d\d)$/;
/** Error codes of a refusal that may not last: the client asks again. */
export const TEMPORARY_CODE = /^(unavailable|rate-limited)$/;

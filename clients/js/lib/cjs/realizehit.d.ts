/*! realizehit 0.1.0, MIT; made of realizehit.js, 32ea01361db419f2 */
/** An error that the server reported, or the loss of a connection. */
export class RealizehitError extends Error {
    /**
     * @param {string} message text for people.
     * @param {string} [code] the server's stable code, for programs; empty if it sent none.
     * @param {number} [status] the HTTP status, or the close code of a WebSocket.
     */
    constructor(message: string, code?: string, status?: number);
    /** The server's stable code, or an empty string. */
    code: string;
    /** The HTTP status, or the WebSocket's close code; 0 if there is none. */
    status: number;
}
/**
 * A subscription to a pattern. Made by `WSClient.subscribe`.
 *
 * Events: `payload` (payload, message) when something was published; `subscribing`, `subscribed`, `unsubscribing`,
 * `unsubscribed` when the state changed; when it is in force again after the connection was lost, `recovered` if all messages
 * follow, else `gap` (seconds), because messages may be missing; `error` (error) when the server ended it or does not answer it
 * now, or a payload could not be parsed and was skipped.
 *
 * @template [Payload=any] the type of its payloads; only TypeScript uses it, nothing checks it
 * @extends {Emitter<SubscriptionEvents<Payload>>}
 */
export class Subscription<Payload = any> extends Emitter<SubscriptionEvents<Payload>> {
    /**
     * @internal
     * @param {WSClient} client
     * @param {Pattern} pattern
     * @param {string} key
     * @param {HistoryOptions} options
     */
    constructor(client: WSClient, pattern: Pattern, key: string, { since, last, offsets }: HistoryOptions);
    /** Its label on the wire; empty until it was in force for the first time. */
    id: string;
    /** @type {SubscriptionState} */
    state: SubscriptionState;
    /** How many payloads arrived. */
    payloads: number;
    /** How many gaps there were. */
    gaps: number;
    /** How many payloads a loop that was too slow has lost. */
    dropped: number;
    /** The pattern as it was given. */
    pattern: {
        [x: string]: string | number | boolean;
    };
    /** The position of the last message, or where the subscription goes on: `since` of another one continues there. */
    position: string | undefined;
    /** Whether the state is `subscribing`. */
    subscribing(): boolean;
    /** Whether the state is `subscribed`. */
    subscribed(): boolean;
    /** Whether the state is `unsubscribing`. */
    unsubscribing(): boolean;
    /** Whether the state is `unsubscribed`. */
    unsubscribed(): boolean;
    /**
     * Subscribe, again if it has ended, and wait until that is in force: no message published from then on is missed.
     *
     * @returns {Promise<void>} rejected if the server refuses it or does not reply in time, or if it ends before it is in force.
     *   After a refusal that may not last (`unavailable`, `rate-limited`, no reply) the client goes on asking.
     */
    subscribe(): Promise<void>;
    /**
     * End the subscription. No payload is delivered any more; those that wait in loops are discarded.
     *
     * @returns {Promise<void>} resolved when the server has confirmed it; at once without a connection.
     */
    unsubscribe(): Promise<void>;
    /**
     * Iterate over the messages from now on, as a loop over the subscription does over the payloads.
     *
     * @returns {AsyncGenerator<ReceivedMessage<Payload>, void, void>} ends with the subscription; throws if the server ended that.
     */
    messages(): AsyncGenerator<ReceivedMessage<Payload>, void, void>;
    /**
     * Iterate over the payloads from now on. Each loop has its own queue, which drops its oldest payload when it is full.
     *
     * @returns {AsyncGenerator<Payload, void, void>} ends with the subscription; throws if the server ended that.
     */
    [Symbol.asyncIterator](): AsyncGenerator<Payload, void, void>;
    #private;
}
/**
 * Subscribe over a WebSocket, or over Server-Sent Events if WebSockets do not get through, and stay subscribed.
 *
 *     const client = new WSClient("wss://example.org/ws");
 *     client.subscribe({ kind: "news" }).on("payload", (payload) => console.log(payload));
 *
 * It connects by itself, and reconnects after a random delay (full jitter) or the delay that the server asked for. It does not
 * reconnect after a close code from 4500 to 4999.
 *
 * Events: `connected` (kind) each time it has connected; `disconnect` (error) when the connection is lost; `expiring`
 * (seconds) when its token ends soon; `note` (any) when an operator sent one; `error` (error) when an attempt failed, or the server refuses the client.
 *
 * @extends {Emitter<{
 *   connected: [kind: "websocket" | "sse"], disconnect: [error: RealizehitError], expiring: [seconds: number], note: [note: any], error: [error: Error],
 * }>}
 */
export class WSClient extends Emitter<{
    connected: [kind: "websocket" | "sse"];
    disconnect: [error: RealizehitError];
    expiring: [seconds: number];
    note: [note: any];
    error: [error: Error];
}> {
    /**
     * @param {string | URL} url the address of the WebSocket: `wss://host/ws`, or relative to the page.
     * @param {Options} [options]
     */
    constructor(url: string | URL, options?: Options);
    /** The WebSocket's address. */
    url: string;
    /** Whether it is connected. */
    get connected(): boolean;
    /** Whether it is not connected. */
    get disconnected(): boolean;
    /** Whether it has ended for good: by `close`, or because the server refuses it. */
    get closed(): boolean;
    /** The transport of the connection, `websocket` or `sse`; undefined without a connection. */
    get transport(): "sse" | "websocket" | undefined;
    /** The subscriptions that have not ended. */
    get subscriptions(): Subscription<any>[];
    /**
     * Subscribe to a pattern. The value `*` leaves a filter open, and the filter `"*": "*"` allows further filters. A second call
     * with the same pattern returns the same subscription.
     *
     * @template [Payload=any] the type of the payloads, for TypeScript: `subscribe<News>({ kind: "news" })`. Nothing checks it.
     * @param {Pattern} pattern
     * @param {((payload: Payload, message: ReceivedMessage<Payload>) => void) | HistoryOptions} [callback] for its `payload` event;
     *   or the options.
     * @param {HistoryOptions} [options] where it begins, and whether it resumes after a lost connection.
     * @returns {Subscription<Payload>}
     * @throws {Error} there is a subscription to the pattern already, and the options name another beginning.
     */
    subscribe<Payload = any>(pattern: Pattern, callback?: ((payload: Payload, message: ReceivedMessage<Payload>) => void) | HistoryOptions, options?: HistoryOptions): Subscription<Payload>;
    /**
     * End the subscription to a pattern, if there is one.
     *
     * @param {Pattern} pattern
     */
    unsubscribe(pattern: Pattern): Promise<void>;
    /**
     * Return the subscription to a pattern, if there is one.
     *
     * @template [Payload=any] the type of the payloads, for TypeScript.
     * @param {Pattern} pattern
     * @returns {Subscription<Payload> | undefined}
     */
    getSubscription<Payload = any>(pattern: Pattern): Subscription<Payload> | undefined;
    /** End all subscriptions and the connection, for good. */
    close(): void;
    /** The same as `close`. */
    disconnect(): void;
    #private;
}
/**
 * Publish over HTTP.
 *
 *     const { nodes } = await new APIClient("https://example.org/").publish({ kind: "news" }, { title: "hello" });
 */
export class APIClient {
    /**
     * @param {string | URL} url the API's address with its prefix.
     * @param {{key?: string, fetch?: Options["fetch"]}} [options] key: sent as `Authorization: Bearer`; fetch: instead of the
     *   platform's.
     */
    constructor(url: string | URL, { key, fetch }?: {
        key?: string;
        fetch?: Options["fetch"];
    });
    /**
     * Publish one message.
     *
     * @param {Pattern} pattern
     * @param {any} payload a value that JSON can represent.
     * @returns {Promise<{status: string, id: string, nodes: number}>} nodes: how many nodes the broker reached.
     * @throws {RealizehitError} the server refused it; `code` and `status` say why. If the server was not reached, the error is
     *   the one of `fetch`; it is then unknown whether the message was published.
     */
    publish(pattern: Pattern, payload: any): Promise<{
        status: string;
        id: string;
        nodes: number;
    }>;
    #private;
}
export type SubscriptionState = "subscribing" | "subscribed" | "unsubscribing" | "unsubscribed";
/**
 * A published message.
 */
export type ReceivedMessage<Payload = any> = {
    payload: Payload;
    /**
     * the payload as it was published.
     */
    text: string;
    /**
     * what it was published to. For a subscription with `*` its values are texts; otherwise it is the
     * subscription's own pattern.
     */
    pattern: Pattern;
    /**
     * its position, for a subscription with positions to a pattern that has a history.
     */
    position?: string | undefined;
};
/**
 * each of them gives the subscription positions, by which it resumes after a lost connection
 */
export type HistoryOptions<Payload = any> = {
    /**
     * a position: the messages after it are delivered first, or a `gap` tells that this is impossible.
     */
    since?: string | undefined;
    /**
     * how many of the last messages are delivered first.
     */
    last?: number | undefined;
    /**
     * only new messages, with positions.
     */
    offsets?: boolean | undefined;
};
export type SubscriptionEvents<Payload = any> = {
    payload: [payload: Payload, message: ReceivedMessage<Payload>];
    subscribing: [];
    subscribed: [];
    unsubscribing: [];
    unsubscribed: [];
    recovered: [];
    gap: [seconds: number];
    error: [error: Error];
};
/**
 * the part of a WebSocket that the client uses
 */
export type SocketLike = {
    send: (text: string) => void;
    close: (code: number) => void;
    onopen: any;
    onmessage: any;
    onclose: any;
    onerror: any;
};
/**
 * times are in milliseconds
 */
export type Options = {
    /**
     * instead of the platform's; Node.js before 22 has none.
     */
    WebSocket?: (new (url: string) => SocketLike) | undefined;
    /**
     * instead of the platform's.
     */
    fetch?: ((url: URL, request: RequestInit) => Promise<Response>) | undefined;
    /**
     * the address of the event stream, by default `sse` beside the WebSocket's address;
     * false to use WebSockets only.
     */
    sse?: string | false | URL | undefined;
    /**
     * makes a payload of its JSON text. The default is `JSON.parse`, except that
     * integers beyond `Number.MAX_SAFE_INTEGER`, and numbers beyond `Number.MAX_VALUE`, become strings of their digits.
     */
    parse?: ((text: string) => any) | undefined;
    /**
     * proves to the server who the client is. A function is
     * called for each connection, before its token ends, and after it has ended; it returns a fresh token each time.
     */
    token?: string | (() => string | Promise<string>) | undefined;
    /**
     * how many payloads may wait in a loop, 1024.
     */
    maxsize?: number | undefined;
    /**
     * the first bound of the delay before reconnecting, 500.
     */
    backoffBase?: number | undefined;
    /**
     * the last bound of that delay, 30000.
     */
    backoffCap?: number | undefined;
    /**
     * silence after which a ping is sent, 60000.
     */
    heartbeat?: number | undefined;
    /**
     * for connecting, and for the reply to a ping, 10000.
     */
    responseTimeout?: number | undefined;
    /**
     * between attempts to change from the event stream to a WebSocket, 120000.
     */
    webSocketRetry?: number | undefined;
};
/**
 * a set of filters, such as `{kind: "news"}`
 */
export type Pattern = Record<string, string | number | boolean>;
/**
 * to an action
 */
export type Reply = {
    ret?: string;
    at?: string;
    recovered?: boolean;
    err?: string;
    code?: string;
};
/*! realizehit 0.1.0, MIT; joined of src/, 10fd4502fb3379c0 */
/**
 * realizehit for JavaScript: `WSClient` subscribes, `APIClient` publishes. It has no dependencies and runs in browsers,
 * Node.js, Deno and Bun.
 *
 * `realizehit.js` and everything in `lib/` is built from `src/`: `npm run build`.
 *
 * @license MIT
 * @module
 */
/**
 * Something that callbacks can be attached to. An exception in a callback does not stop the others: it is thrown again
 * where the platform reports uncaught exceptions. An `error` event without a callback is written to the console.
 *
 * @template {Record<string, any[]>} Events
 */
declare class Emitter<Events extends Record<string, any[]>> {
    /**
     * Call `callback` at each such event.
     *
     * @template {keyof Events} Name
     * @param {Name} event
     * @param {(...values: Events[Name]) => void} callback
     */
    on<Name extends keyof Events>(event: Name, callback: (...values: Events[Name]) => void): this;
    /**
     * Call `callback` at the next such event only, or at the next one of several events.
     *
     * @template {keyof Events} Name
     * @param {Name | Name[]} event
     * @param {(...values: Events[Name]) => void} callback
     */
    once<Name extends keyof Events>(event: Name | Name[], callback: (...values: Events[Name]) => void): this;
    /**
     * Remove a callback.
     *
     * @template {keyof Events} Name
     * @param {Name} event
     * @param {(...values: Events[Name]) => void} callback
     */
    off<Name extends keyof Events>(event: Name, callback: (...values: Events[Name]) => void): this;
    #private;
}
export {};

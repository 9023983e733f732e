/*! realizehit 0.1.0, MIT; made of realizehit.js, 057baf94b59dec42 */
/** An error that a server gave, or the loss of a connection. */
export class RealizehitError extends Error {
    /**
     * @param {string} message for people.
     * @param {string} [code] the server's stable code, for programs; empty where it gave none.
     * @param {number} [status] the HTTP status, or the close code of a WebSocket.
     */
    constructor(message: string, code?: string, status?: number);
    /** The server's stable code, or an empty string. */
    code: string;
    /** The HTTP status, or the WebSocket's close code; 0 where there was none. */
    status: number;
}
/**
 * @typedef {Record<string, string | number | boolean>} Pattern a set of filters, such as `{kind: "news"}`
 * @typedef {"subscribing" | "subscribed" | "unsubscribing" | "unsubscribed"} SubscriptionState
 */
/**
 * @template [Payload=any]
 * @typedef {{
 *   payload: [payload: Payload], subscribing: [], subscribed: [], unsubscribing: [], unsubscribed: [],
 *   gap: [seconds: number], error: [error: Error],
 * }} SubscriptionEvents
 */
/**
 * What a client asked for. Made by `WSClient.subscribe`.
 *
 * Events: `payload` (payload); `subscribing`, `subscribed`, `unsubscribing`, `unsubscribed` when the state changed; `gap`
 * (seconds) when it is in force again after the connection was away, so that messages may be missing; `error` (error)
 * when it ended by itself, or a payload could not be parsed and was left out.
 *
 * @template [Payload=any] what its payloads are; only the types know it, nothing checks it
 * @extends {Emitter<SubscriptionEvents<Payload>>}
 */
export class Subscription<Payload = any> extends Emitter<SubscriptionEvents<Payload>> {
    /**
     * @internal
     * @param {WSClient} client
     * @param {Pattern} pattern
     * @param {string} key
     */
    constructor(client: WSClient, pattern: Pattern, key: string);
    /** Its label on the wire, empty until it was in force once. */
    id: string;
    /** @type {SubscriptionState} */
    state: SubscriptionState;
    /** How many payloads came. */
    payloads: number;
    /** How many gaps there were. */
    gaps: number;
    /** How many payloads were lost because an iterator was read too slowly. */
    dropped: number;
    /** @internal @type {string} what tells patterns apart */
    _key: string;
    /** @internal how often it was asked for since it was last in force */
    _attempts: number;
    /** @internal the id of its last `sub` */
    _request: string;
    /** The pattern as it was given. */
    pattern: {
        [x: string]: string | number | boolean;
    };
    /** Whether the state is `subscribing`. */
    subscribing(): boolean;
    /** Whether the state is `subscribed`. */
    subscribed(): boolean;
    /** Whether the state is `unsubscribing`. */
    unsubscribing(): boolean;
    /** Whether the state is `unsubscribed`. */
    unsubscribed(): boolean;
    /**
     * Subscribe, again if it has ended, and wait until that is in force: nothing published from then on is missed.
     *
     * @returns {Promise<void>} rejected where the server refuses it, or it is ended meanwhile.
     */
    subscribe(): Promise<void>;
    /**
     * End the subscription. Nothing is handed out any more; what waits is thrown away.
     *
     * @returns {Promise<void>} resolved when the server has confirmed it; at once without a connection.
     */
    unsubscribe(): Promise<void>;
    /** @internal @param {SubscriptionState} state */
    _move(state: SubscriptionState): void;
    /** @internal */
    _begin(): void;
    /** @internal @param {string} text @param {{parse: (text: string) => any, maxsize: number}} options */
    _deliver(text: string, { parse, maxsize }: {
        parse: (text: string) => any;
        maxsize: number;
    }): void;
    /** @internal @param {string} id */
    _inForce(id: string): void;
    /** @internal @param {number} seconds */
    _gap(seconds: number): void;
    /** @internal @param {number} since */
    _interrupted(since: number): void;
    /** @internal @param {Error} [error] */
    _finish(error?: Error): void;
    /**
     * Hand out payloads from now on. Each loop has a queue of its own, which drops its oldest payload when it is full.
     *
     * @returns {AsyncGenerator<Payload, void, void>} ends with the subscription; throws where that ended by itself.
     */
    [Symbol.asyncIterator](): AsyncGenerator<Payload, void, void>;
    #private;
}
/**
 * Subscribe over a WebSocket, or over a stream of events where WebSockets do not get through, and stay subscribed.
 *
 *     const client = new WSClient("wss://example.org/ws");
 *     client.subscribe({ kind: "news" }).on("payload", (payload) => console.log(payload));
 *
 * It connects by itself, and reconnects with a full-jitter back-off or after the delay that a server asked for. A server
 * that closes with 4500 to 4999 is not bothered again.
 *
 * Events: `connected` (kind) each time a connection is there; `disconnect` (error) when it is gone; `expiring` (seconds)
 * when its token ends soon; `error` (error) when an attempt failed, or the server will not have the client.
 *
 * @extends {Emitter<{
 *   connected: [kind: "websocket" | "sse"], disconnect: [error: RealizehitError], expiring: [seconds: number], error: [error: Error],
 * }>}
 */
export class WSClient extends Emitter<{
    connected: [kind: "websocket" | "sse"];
    disconnect: [error: RealizehitError];
    expiring: [seconds: number];
    error: [error: Error];
}> {
    /**
     * @param {string | URL} url where the WebSocket is: `wss://host/ws`, or relative to the page.
     * @param {Options} [options]
     */
    constructor(url: string | URL, options?: Options);
    /** The WebSocket's address. */
    url: string;
    /** Whether a connection is there. */
    get connected(): boolean;
    /** Whether no connection is there. */
    get disconnected(): boolean;
    /** The transport of the connection, `websocket` or `sse`; undefined without a connection. */
    get transport(): "websocket" | "sse" | undefined;
    /** Those that have not ended. */
    get subscriptions(): Subscription<any>[];
    /**
     * Subscribe to a pattern. Asked again for the same pattern, it returns the same subscription.
     *
     * @template [Payload=any] what the payloads are, for TypeScript: `subscribe<News>({ kind: "news" })`. Nothing checks it.
     * @param {Pattern} pattern
     * @param {(payload: Payload) => void} [callback] for its `payload` event.
     * @returns {Subscription<Payload>}
     */
    subscribe<Payload = any>(pattern: Pattern, callback?: (payload: Payload) => void): Subscription<Payload>;
    /**
     * End the subscription to a pattern, if there is one.
     *
     * @param {Pattern} pattern
     */
    unsubscribe(pattern: Pattern): Promise<void>;
    /**
     * Return the subscription to a pattern, if there is one.
     *
     * @template [Payload=any] what the payloads are, for TypeScript.
     * @param {Pattern} pattern
     * @returns {Subscription<Payload> | undefined}
     */
    getSubscription<Payload = any>(pattern: Pattern): Subscription<Payload> | undefined;
    /** End all subscriptions and the connection, for good. */
    close(): void;
    /** The same as `close`. */
    disconnect(): void;
    /** @internal @param {Subscription} subscription */
    _join(subscription: Subscription): void;
    /** @internal @param {Subscription} subscription */
    _leave(subscription: Subscription): void;
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
     * @param {{key?: string, fetch?: Options["fetch"]}} [options] key: sent as `Authorization: Bearer`; fetch: in place of the
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
     * @param {any} payload what JSON can hold.
     * @returns {Promise<{status: string, id: string, nodes: number}>} nodes: how many the broker reached.
     * @throws {RealizehitError} the server refused it; `code` and `status` say why. Where the server was not reached, it is
     *   the error of `fetch`; whether it was published is not known then.
     */
    publish(pattern: Pattern, payload: any): Promise<{
        status: string;
        id: string;
        nodes: number;
    }>;
    #private;
}
/**
 * a set of filters, such as `{kind: "news"}`
 */
export type Pattern = Record<string, string | number | boolean>;
export type SubscriptionState = "subscribing" | "subscribed" | "unsubscribing" | "unsubscribed";
export type SubscriptionEvents<Payload = any> = {
    payload: [payload: Payload];
    subscribing: [];
    subscribed: [];
    unsubscribing: [];
    unsubscribed: [];
    gap: [seconds: number];
    error: [error: Error];
};
/**
 * what is used of a WebSocket
 */
export type SocketLike = {
    send: (text: string) => void;
    close: () => void;
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
     * in place of the platform's; Node.js before 22 has none.
     */
    WebSocket?: (new (url: string) => SocketLike) | undefined;
    /**
     * in place of the platform's.
     */
    fetch?: ((url: URL, request: RequestInit) => Promise<Response>) | undefined;
    /**
     * where the stream of events is, `sse` beside the WebSocket's address where it
     * is not given; false to use WebSockets only.
     */
    sse?: string | false | URL | undefined;
    /**
     * makes a payload of its JSON text. By default it is `JSON.parse`, but
     * that integers beyond `Number.MAX_SAFE_INTEGER`, and numbers beyond `Number.MAX_VALUE`, are strings of their digits.
     */
    parse?: ((text: string) => any) | undefined;
    /**
     * says who the client is, where the server asks. A function
     * is called for each connection, before its token ends, and once that has ended; it gives a fresh one each time.
     */
    token?: string | (() => string | Promise<string>) | undefined;
    /**
     * how many payloads may wait in an iterator, 1024.
     */
    maxsize?: number | undefined;
    /**
     * the first bound of the delay before reconnecting, 500.
     */
    backoffBase?: number | undefined;
    /**
     * the last bound of it, 30000.
     */
    backoffCap?: number | undefined;
    /**
     * silence after which a ping is sent, 60000.
     */
    heartbeat?: number | undefined;
    /**
     * for connecting, and for an answer to a ping, 10000.
     */
    responseTimeout?: number | undefined;
    /**
     * between attempts to leave the stream of events for a WebSocket, 120000.
     */
    webSocketRetry?: number | undefined;
};
export type Link = {
    kind: "websocket" | "sse";
    /**
     * of what came over it
     */
    count: number;
    /**
     * a WebSocket's
     */
    send?: ((message: object) => void) | undefined;
    /**
     * ends it without a word
     */
    close: () => void;
    /**
     * loses it after so many ms, unless it is up by then
     */
    expire: (delay: number, why: string) => void;
    /**
     * for that; with a stream of events that is up, for trying a WebSocket
     */
    timer?: number | undefined;
    /**
     * what there was to be asked for when a stream of events was opened
     */
    wanted?: Subscription<any>[] | undefined;
};
/**
 * Something that callbacks can be attached to. A callback that fails harms nobody here: its error is thrown where the
 * platform reports uncaught ones. An `error` that nobody listens to is written to the console.
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
     * Call `callback` at the next such event only.
     *
     * @template {keyof Events} Name
     * @param {Name} event
     * @param {(...values: Events[Name]) => void} callback
     */
    once<Name extends keyof Events>(event: Name, callback: (...values: Events[Name]) => void): this;
    /**
     * Call `callback` no more.
     *
     * @template {keyof Events} Name
     * @param {Name} event
     * @param {(...values: Events[Name]) => void} callback
     */
    off<Name extends keyof Events>(event: Name, callback: (...values: Events[Name]) => void): this;
    /**
     * @internal
     * @template {keyof Events} Name
     * @param {Name} event
     * @param {Events[Name]} values
     */
    _emit<Name extends keyof Events>(event: Name, ...values: Events[Name]): void;
    #private;
}
export {};

<?php

declare(strict_types=1);

namespace Realizehit;

use Psr\Log\LoggerInterface;
use Realizehit\Exception\BadPatternException;
use Realizehit\Exception\ClientClosedException;
use Realizehit\Exception\RealizehitException;
use Realizehit\Exception\ResponseTimeoutException;
use Realizehit\Internal\Backoff;
use Realizehit\Internal\Incoming;
use Realizehit\Internal\Link;
use Realizehit\Internal\LinkHandler;
use Realizehit\Internal\Listeners;
use Realizehit\Internal\Replies;
use Realizehit\Internal\Token;
use Realizehit\Internal\TokenRenewal;
use Realizehit\Internal\Topics;
use Realizehit\Loop\BlockingWaiter;
use Realizehit\Loop\Waiter;
use Realizehit\WebSocket\Address;
use Realizehit\WebSocket\Connection;
use Realizehit\WebSocket\Proxy;

/**
 * Subscribes over a WebSocket, and stays subscribed.
 *
 *     $client = new WebSocketClient('ws://127.0.0.1:8080/ws');
 *     foreach ($client->subscribe(['kind' => 'news'])->messages() as $message) {
 *         echo $message->payload()['title'], "\n";
 *     }
 *
 * The client works while one of its methods, or of its subscriptions', runs: `next`, `messages`, `run`, `poll` and the like. A
 * program that does something else for long calls `poll()` now and then.
 *
 * When the connection is lost, it connects again after a random delay, or after the delay that the server asked for, and
 * subscribes to everything again. After a close code from 4500 to 4999, or a handshake that is refused with 401 or 403, it ends.
 *
 * Events, for `on`:
 * - `connected` (): it is connected, for the first time or again.
 * - `disconnected` (RealizehitException): the connection is lost; `status` is its close code, if there was one.
 * - `gap` (Subscription, Gap): messages of a subscription are missing, or may be.
 * - `expiring` (float): the token ends in so many seconds. With a function as `token`, a fresh one is sent before.
 * - `note` (mixed): an operator sent this; objects are arrays.
 * - `error` (RealizehitException): an attempt to connect or to renew the token failed, and is repeated.
 * - `ended` (RealizehitException): the server refuses the client, which does not connect again.
 */
final class WebSocketClient
{
    private const EVENTS = ['connected', 'disconnected', 'gap', 'expiring', 'note', 'error', 'ended'];
    /** Seconds of work of a program between its calls of `next`, after which that reads everything that has come. */
    private const KEEP_UP_AFTER = 0.02;
    private const NEVER = 3600.0;

    private readonly Link $link;
    private readonly Topics $topics;
    private readonly Replies $replies;
    private readonly TokenRenewal $renewal;
    private readonly Listeners $listeners;
    private readonly Waiter $waiter;
    private bool $isClosed = false;
    /** Why it ended, or why the first connection failed. */
    private ?RealizehitException $error = null;
    /** When the program last went on with its own work. */
    private float $gaveAt = 0.0;
    /** Seconds of work of the program since everything was read. */
    private float $busy = 0.0;
    /** Messages that `next` gave it since then. */
    private int $given = 0;

    /**
     * @param string $url `ws://` or `wss://`.
     * @param string|callable(): string|null $token who the client is, a JSON Web Token; or a function that returns a fresh one.
     *   It is called for each connection, and before a token ends.
     * @param array<string, string> $headers sent with the opening handshake.
     * @param float $backoffBase seconds, the first bound of the delay before connecting again.
     * @param float $backoffCap seconds, the last bound of it.
     * @param float $heartbeat a connection on which nothing came for so many seconds is given up.
     * @param int $queue messages that may wait in each subscription.
     * @param float $openTimeout seconds for connecting and the handshake.
     * @param float $responseTimeout seconds for the reply to an action.
     * @param int $maxMessage bytes of the largest message that is accepted; a larger one costs the connection.
     * @param array<string, mixed> $tls context options of TLS, such as `['cafile' => '/etc/ca.pem']`. Certificates are verified.
     * @param string|null $proxy `http://host:port`; null for the one of the environment, an empty text for none.
     * @param LoggerInterface|null $logger gets what happens to the connection, and what callbacks throw; never a token.
     * @param Waiter|null $waiter how to wait; null to block.
     * @throws \ValueError an argument cannot be used.
     */
    public function __construct(
        string $url,
        #[\SensitiveParameter] string|callable|null $token = null,
        array $headers = [],
        float $backoffBase = 0.25,
        float $backoffCap = 20.0,
        float $heartbeat = 60.0,
        private readonly int $queue = 1024,
        float $openTimeout = 10.0,
        private readonly float $responseTimeout = 10.0,
        int $maxMessage = 16 << 20,
        array $tls = [],
        ?string $proxy = null,
        private readonly ?LoggerInterface $logger = null,
        ?Waiter $waiter = null,
    ) {
        if ($queue < 1 || $maxMessage < 1 || min($backoffBase, $backoffCap, $heartbeat, $openTimeout, $responseTimeout) <= 0) {
            throw new \ValueError('times and bounds must be greater than 0');
        }
        $address = new Address($url);
        $tokens = new Token($token);
        if ($token !== null && in_array('authorization', array_map('strtolower', array_keys($headers)), true)) {
            throw new \ValueError('both a token and an Authorization header were given; give one of them');
        }
        $connect = static function () use ($address, $tokens, $headers, $tls, $proxy, $openTimeout, $maxMessage): Connection {
            $through = match ($proxy) {
                null => Proxy::fromEnvironment($address),
                '' => null,
                default => Proxy::read($proxy),
            };
            $current = $tokens->current();
            $all = $headers + ($current === null ? [] : ['Authorization' => "Bearer $current"]);
            return new Connection($address, $all, $tls, $through, $openTimeout, $maxMessage);
        };
        $backoff = new Backoff($backoffBase, $backoffCap);
        $this->waiter = $waiter ?? new BlockingWaiter();
        $this->listeners = new Listeners(self::EVENTS, $logger);
        $handler = new LinkHandler(
            opened: $this->whenOpened(...),
            lost: $this->whenLost(...),
            attemptFailed: $this->tell(...),
            gaveUp: $this->whenRefused(...),
        );
        $incoming = new Incoming($this->whenTold(...));
        $this->link = new Link($connect, $backoff, $heartbeat, $tokens->isFresh(), $incoming, $handler);
        $this->replies = new Replies();
        $this->topics = new Topics(
            $this->link,
            $incoming,
            $this->replies,
            $backoff,
            fn (Subscription $subscription, Gap $gap) => $this->listeners->emit('gap', $subscription, $gap),
        );
        $this->renewal = new TokenRenewal($tokens, $this->link, $this->replies, $backoff, $responseTimeout, $this->tell(...));
    }

    /** Whether there is a connection now. */
    public function isConnected(): bool
    {
        return $this->link->isOpen();
    }

    /** Whether it has ended: it was closed, or the server refuses it. */
    public function isClosed(): bool
    {
        return $this->isClosed;
    }

    /**
     * Call something at each event of a name.
     *
     * @throws \ValueError there is no such event.
     */
    public function on(string $event, callable $callback): self
    {
        $this->listeners->add($event, $callback);
        return $this;
    }

    /**
     * Connect; `subscribe` and `run` do it by themselves. The first attempt is not repeated, so that a wrong address is noticed.
     *
     * @throws RealizehitException the server cannot be reached or refuses the client, or there is no token.
     */
    public function connect(): void
    {
        $this->checkUsable();
        if (!$this->link->isRunning()) {
            $this->error = null;
            $this->link->start();
        } elseif (!$this->link->hasNeverOpened()) {
            return;
        }
        $this->waitUntil(fn (): bool => $this->link->isOpen() || !$this->link->isRunning(), null);
        if ($this->error !== null) {
            throw $this->error;
        }
        $this->checkUsable();
    }

    /**
     * Subscribe to a pattern and wait until that is in force: what is published from then on arrives.
     *
     * Several subscriptions to one pattern each get every message; on the wire there is one.
     *
     * @param array<int|string, string|int|float|bool>|object $pattern its filters. The value `*` leaves a filter open, and
     *   `'*' => '*'` allows further filters; each message has the pattern that it was published to.
     * @param callable(Message): mixed|null $callback gets each message; without one, they wait for `messages` and `next`.
     * @param array<string, callable> $on callbacks of the subscription's events.
     * @param string|null $since a position: what came after it is sent first. Needs a server with history.
     * @param int|null $last so many of the latest messages are sent first. Needs a server with history.
     * @param bool $offsets whether the server tells positions, so that the subscription resumes after a lost connection.
     * @param int|null $every milliseconds in which the server sends at most one message, always the newest. Subscriptions of a
     *   client to one pattern have the same; it excludes `since`, `last` and `offsets`.
     * @throws BadPatternException the pattern breaks a rule.
     * @throws ResponseTimeoutException no answer in time, perhaps because there is no connection.
     * @throws RealizehitException the server refuses it; `errorCode` says why. Or the client has ended.
     */
    public function subscribe(
        array|object $pattern,
        ?callable $callback = null,
        array $on = [],
        ?string $since = null,
        ?int $last = null,
        bool $offsets = false,
        ?int $every = null,
    ): Subscription {
        if ($since !== null && $last !== null) {
            throw new \ValueError('since and last exclude each other');
        }
        $pattern = Pattern::of($pattern);
        $this->connect();
        $topic = $this->topics->topic($pattern, $since, $last, $offsets, $every);
        $subscription = new Subscription($this, $topic, $this->queue, $this->logger);
        foreach ($on + ($callback === null ? [] : ['message' => $callback]) as $event => $each) {
            $subscription->on($event, $each);
        }
        $this->topics->join($subscription);
        $isDone = static fn (): bool => $subscription->state() !== SubscriptionState::Subscribing;
        if (!$this->waitUntil($isDone, $this->responseTimeout)) {
            $this->topics->leave($subscription, static fn () => null);
            $subscription->finish(null);
            $away = $this->link->isOpen() ? '' : '; the connection is away';
            throw new ResponseTimeoutException("no answer to sub within $this->responseTimeout seconds$away");
        }
        if ($subscription->error() !== null) {
            throw $subscription->error();
        }
        if ($subscription->state() !== SubscriptionState::Subscribed) {
            throw new ClientClosedException('the subscription was ended before it was in force');
        }
        return $subscription;
    }

    /**
     * Work until the client is closed, for programs that use callbacks.
     *
     * @throws RealizehitException the server refuses the client.
     */
    public function run(): void
    {
        $this->connect();
        $this->waitUntil(fn (): bool => $this->isClosed, null);
        if ($this->error !== null) {
            throw $this->error;
        }
    }

    /**
     * Do what can be done now: read, answer, call callbacks, connect again.
     *
     * @param float $seconds how long to wait for something to do.
     */
    public function poll(float $seconds = 0.0): void
    {
        $this->turn();
        if ($seconds > 0 && !$this->isClosed) {
            $this->wait($seconds);
            $this->turn();
        }
    }

    /** Disconnect and end all subscriptions. Calling it again does nothing. */
    public function close(): void
    {
        if ($this->isClosed) {
            return;
        }
        $this->isClosed = true;
        $connection = $this->link->stop();
        $this->renewal->stop();
        $this->replies->drop();
        $this->topics->end(null);
        while ($connection !== null && !$connection->isClosed()) {
            $seconds = max(0.0, ($connection->deadline() ?? 0.0) - Connection::now());
            $this->waiter->wait($connection->reads(), $connection->writes(), $seconds);
            $connection->advance();
        }
    }

    // ---- for the subscriptions

    /** End a subscription. @internal */
    public function leave(Subscription $subscription): void
    {
        if (in_array($subscription->state(), [SubscriptionState::Unsubscribing, SubscriptionState::Unsubscribed], true)) {
            return;
        }
        $isConfirmed = false;
        $subscription->move(SubscriptionState::Unsubscribing);
        $this->topics->leave($subscription, static function () use (&$isConfirmed): void {
            $isConfirmed = true;
        });
        $this->waitUntil(static function () use (&$isConfirmed): bool {
            return $isConfirmed;
        }, $this->responseTimeout);
        $subscription->finish(null);
    }

    /**
     * Note that a program asks for its next message. If it works long for each one, read everything that has come: full queues
     * drop the oldest, and the socket does not stall. A fast program gets each message, however many come at once.
     *
     * @internal
     */
    public function readerCame(): void
    {
        $this->busy += Connection::now() - $this->gaveAt;
        if ($this->busy >= self::KEEP_UP_AFTER && !$this->isClosed) {
            if ($this->given < $this->queue) {
                $this->turn();
            }
            $this->busy = 0.0;
            $this->given = 0;
        }
    }

    /** Note that a program got a message. @internal */
    public function readerLeft(): void
    {
        $this->gaveAt = Connection::now();
        $this->given++;
    }

    /**
     * Work until something holds; return whether it does.
     *
     * @param \Closure(): bool $condition
     * @param float|null $timeout seconds; null for as long as it takes.
     * @internal
     */
    public function waitUntil(\Closure $condition, ?float $timeout): bool
    {
        $end = $timeout === null ? null : Connection::now() + $timeout;
        while (!$condition()) {
            $this->turn($condition);
            if ($condition() || $this->isClosed) {
                break;
            }
            $left = $end === null ? self::NEVER : $end - Connection::now();
            if ($left <= 0) {
                return false;
            }
            $this->wait($left);
        }
        return $condition();
    }

    // ---- work

    /**
     * @param (\Closure(): bool)|null $isEnough see `Link::advance`.
     */
    private function turn(?\Closure $isEnough = null): void
    {
        $this->link->advance($isEnough);
        $this->gaveAt = Connection::now();
        $this->topics->turn();
        $this->renewal->turn();
        $this->link->flush();
    }

    private function wait(float $seconds): void
    {
        $now = Connection::now();
        foreach ([$this->link->deadline(), $this->topics->deadline(), $this->renewal->deadline()] as $deadline) {
            $seconds = $deadline === null ? $seconds : min($seconds, max(0.0, $deadline - $now));
        }
        $this->link->flush();
        $this->waiter->wait($this->link->reads(), $this->link->writes(), $seconds);
    }

    private function checkUsable(): void
    {
        if ($this->isClosed) {
            throw $this->error ?? new ClientClosedException('the client is closed');
        }
    }

    private function tell(RealizehitException $error): void
    {
        $this->logger?->warning('realizehit: {error}', ['error' => $error->getMessage()]);
        $this->listeners->emit('error', $error);
    }

    private function whenOpened(): void
    {
        $this->topics->askAll();
        $this->link->flush();
        $this->logger?->info('realizehit: connected');
        $this->listeners->emit('connected');
    }

    /** Take a reply or an event. */
    private function whenTold(string $text): void
    {
        $message = json_decode($text, true);
        $name = is_array($message) ? $message['evt'] ?? null : null;
        if ($name === 'gap' || $name === 'unsubscribed') {
            $this->topics->take($name, $message);
        } elseif ($name === 'expiring') {
            $seconds = $message['seconds'] ?? null;
            if (is_int($seconds) || is_float($seconds)) {
                $this->renewal->start((float) $seconds);
                $this->listeners->emit('expiring', (float) $seconds);
            }
        } elseif ($name === 'note') {
            $this->listeners->emit('note', $message['note'] ?? null);
        } elseif ($name === null && is_array($message)) {
            $this->replies->take($message);
        }
    }

    private function whenLost(RealizehitException $error, float $heardAt): void
    {
        $this->renewal->stop();
        $this->topics->interrupt($heardAt);
        $this->replies->drop();
        $this->logger?->info('realizehit: disconnected: {error}', ['error' => $error->getMessage()]);
        $this->listeners->emit('disconnected', $error);
    }

    private function whenRefused(RealizehitException $error): void
    {
        if ($this->isClosed) {
            return; // a callback closed it meanwhile
        }
        $this->error = $error;
        if (!$this->link->isOpen() && $this->link->hasNeverOpened()) {
            return; // the first attempt: `connect` throws it
        }
        $this->isClosed = true;
        $this->logger?->error('realizehit: ended: {error}', ['error' => $error->getMessage()]);
        $this->topics->end($error);
        $this->listeners->emit('ended', $error);
    }
}

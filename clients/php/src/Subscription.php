<?php

declare(strict_types=1);

namespace Realizehit;

use Psr\Log\LoggerInterface;
use Realizehit\Exception\RealizehitException;
use Realizehit\Internal\Listeners;
use Realizehit\Internal\Topic;

/**
 * One subscription of a client to a pattern. `WebSocketClient::subscribe` makes it.
 *
 * Its messages go to its callback, if it has one, or wait in its queue for `messages` and `next`. The queue is bounded: when it
 * is full, the oldest message is dropped and counted, and a gap is told.
 *
 * Events, for `on`:
 * - `message` (Message): a message came.
 * - `gap` (Gap): messages are missing, or may be.
 * - `recovered` (): it is in force again, and nothing was missed.
 * - `subscribing`, `subscribed`, `unsubscribing`, `unsubscribed` (): its state changed.
 * - `error` (RealizehitException): the server ended it.
 */
final class Subscription
{
    private const EVENTS = [
        'message', 'gap', 'recovered', 'error', 'subscribing', 'subscribed', 'unsubscribing', 'unsubscribed',
    ];

    private SubscriptionState $state = SubscriptionState::Subscribing;
    /** @var \SplQueue<Message> */
    private \SplQueue $queue;
    private Listeners $listeners;
    /** @var list<callable> those of `message`, at hand because each message needs them */
    private array $callbacks = [];
    private int $dropped = 0;
    /** Dropped messages that no gap has told yet. */
    private int $untold = 0;
    private ?RealizehitException $error = null;
    private bool $wasConfirmed = false;

    /**
     * @internal
     */
    public function __construct(
        private readonly WebSocketClient $client,
        private readonly Topic $topic,
        private readonly int $bound,
        ?LoggerInterface $logger,
    ) {
        $this->queue = new \SplQueue();
        $this->listeners = new Listeners(self::EVENTS, $logger);
    }

    /** The pattern that it subscribes to. */
    public function pattern(): Pattern
    {
        return $this->topic->pattern;
    }

    /** The label of its payloads on the wire. */
    public function id(): string
    {
        return $this->topic->id !== '' ? $this->topic->id : $this->topic->pattern->id;
    }

    public function state(): SubscriptionState
    {
        return $this->state;
    }

    /** How many messages its queue dropped. */
    public function dropped(): int
    {
        return $this->dropped;
    }

    /** The position of the last message that came; null if the server does not tell positions. */
    public function position(): ?string
    {
        return $this->topic->position;
    }

    /**
     * Call something at each event of a name. A callback of `message` also gets the messages that wait in the queue.
     *
     * @throws \ValueError there is no such event.
     */
    public function on(string $event, callable $callback): self
    {
        $this->listeners->add($event, $callback);
        $this->callbacks = $this->listeners->of('message');
        while ($event === 'message' && !$this->queue->isEmpty()) {
            $this->listeners->emit('message', $this->queue->dequeue());
        }
        return $this;
    }

    /**
     * Return the messages, one after the other, until the subscription ends.
     *
     * @return \Generator<int, Message>
     * @throws RealizehitException the server ended the subscription or refuses the client.
     */
    public function messages(): \Generator
    {
        while (($message = $this->next()) !== null) {
            yield $message;
        }
    }

    /**
     * Return the next message; null if none came in time or the subscription has ended.
     *
     * @param float|null $timeout seconds; null to wait as long as it takes.
     * @throws RealizehitException the server ended the subscription or refuses the client.
     */
    public function next(?float $timeout = null): ?Message
    {
        if ($this->callbacks !== []) {
            throw new \LogicException('the messages of this subscription go to its callback');
        }
        $this->client->readerCame();
        if ($this->queue->isEmpty() && !$this->hasEnded()) {
            $this->client->waitUntil(fn (): bool => !$this->queue->isEmpty() || $this->hasEnded(), $timeout);
        }
        $this->client->readerLeft();
        if (!$this->queue->isEmpty()) {
            return $this->queue->dequeue();
        }
        return $this->error === null ? null : throw $this->error;
    }

    /** End it, and wait until the server has confirmed that. Messages that wait in its queue are dropped. */
    public function unsubscribe(): void
    {
        $this->client->leave($this);
    }

    private function hasEnded(): bool
    {
        return $this->state === SubscriptionState::Unsubscribing || $this->state === SubscriptionState::Unsubscribed;
    }

    // ---- for the client

    /** @internal */
    public function topic(): Topic
    {
        return $this->topic;
    }

    /** @internal */
    public function error(): ?RealizehitException
    {
        return $this->error;
    }

    /** Take a message; return whether the queue dropped another one for it. @internal */
    public function deliver(Message $message): bool
    {
        if ($this->state !== SubscriptionState::Subscribed) {
            return false;
        }
        if ($this->callbacks !== []) {
            foreach ($this->callbacks as $callback) {
                try {
                    $callback($message);
                } catch (\Throwable $error) {
                    $this->listeners->report('message', $error);
                }
            }
            return false;
        }
        $isFull = $this->queue->count() >= $this->bound;
        if ($isFull) {
            $this->queue->dequeue();
            $this->dropped++;
            $this->untold++;
        }
        $this->queue->enqueue($message);
        return $isFull;
    }

    /** Tell what the queue dropped since the last time; return whether it dropped anything. @internal */
    public function tellDropped(): ?Gap
    {
        if ($this->untold === 0) {
            return null;
        }
        $gap = new Gap(0.0, $this->untold);
        $this->untold = 0;
        $this->listeners->emit('gap', $gap);
        return $gap;
    }

    /** @internal */
    public function emit(string $event, mixed ...$values): void
    {
        $this->listeners->emit($event, ...$values);
    }

    /** @internal */
    public function move(SubscriptionState $state): void
    {
        if ($this->state === $state || ($this->hasEnded() && $state !== SubscriptionState::Unsubscribed)) {
            return;
        }
        $this->state = $state;
        $this->wasConfirmed = $this->wasConfirmed || $state === SubscriptionState::Subscribed;
        if ($state === SubscriptionState::Unsubscribing) {
            $this->queue = new \SplQueue();
        }
        $this->listeners->emit($state->value);
    }

    /** End it, because of an error or because it was asked for. @internal */
    public function finish(?RealizehitException $error): void
    {
        if ($this->state === SubscriptionState::Unsubscribed) {
            return;
        }
        $this->error = $error;
        if ($error === null) {
            $this->queue = new \SplQueue();
        }
        $this->move(SubscriptionState::Unsubscribed);
        if ($error !== null && $this->wasConfirmed) {
            $this->listeners->emit('error', $error);
        }
    }
}

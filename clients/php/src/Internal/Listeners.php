<?php

declare(strict_types=1);

namespace Realizehit\Internal;

use Psr\Log\LoggerInterface;

/**
 * Callbacks by the names of events. What a callback throws goes to the log, or to PHP's error log, and ends nothing.
 *
 * @internal
 */
final class Listeners
{
    /** @var array<string, list<callable>> */
    private array $callbacks = [];

    /**
     * @param list<string> $events the names that there are.
     */
    public function __construct(private readonly array $events, private readonly ?LoggerInterface $logger)
    {
    }

    /**
     * @throws \ValueError there is no such event.
     */
    public function add(string $event, callable $callback): void
    {
        if (!in_array($event, $this->events, true)) {
            throw new \ValueError("there is no event \"$event\"; there are " . implode(', ', $this->events));
        }
        $this->callbacks[$event][] = $callback;
    }

    /** @return list<callable> the callbacks of an event. */
    public function of(string $event): array
    {
        return $this->callbacks[$event] ?? [];
    }

    public function emit(string $event, mixed ...$values): void
    {
        foreach ($this->callbacks[$event] ?? [] as $callback) {
            try {
                $callback(...$values);
            } catch (\Throwable $error) {
                $this->report($event, $error);
            }
        }
    }

    /** Log what a callback of an event threw. */
    public function report(string $event, \Throwable $error): void
    {
        if ($this->logger !== null) {
            $this->logger->error('A callback of the event {event} failed.', ['event' => $event, 'exception' => $error]);
        } else {
            error_log("realizehit: a callback of the event $event failed: $error");
        }
    }
}

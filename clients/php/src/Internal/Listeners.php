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

    public function has(string $event): bool
    {
        return isset($this->callbacks[$event]);
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

    /** Emit an event that has one value; return whether it has callbacks. It is what each message goes through. */
    public function tell(string $event, mixed $value): bool
    {
        if (!isset($this->callbacks[$event])) {
            return false;
        }
        foreach ($this->callbacks[$event] as $callback) {
            try {
                $callback($value);
            } catch (\Throwable $error) {
                $this->report($event, $error);
            }
        }
        return true;
    }

    private function report(string $event, \Throwable $error): void
    {
        if ($this->logger !== null) {
            $this->logger->error('A callback of the event {event} failed.', ['event' => $event, 'exception' => $error]);
        } else {
            error_log("realizehit: a callback of the event $event failed: $error");
        }
    }
}

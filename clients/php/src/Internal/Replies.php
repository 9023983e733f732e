<?php

declare(strict_types=1);

namespace Realizehit\Internal;

/**
 * The actions of the present connection that the server has not answered.
 *
 * @internal
 */
final class Replies
{
    /** @var array<int, \Closure(array<string, mixed>|null): void> */
    private array $waiting = [];
    private int $last = 0;

    /**
     * Return the id for an action.
     *
     * @param \Closure(array<string, mixed>|null): void $callback gets the reply; null if the connection is lost before it.
     */
    public function expect(\Closure $callback): string
    {
        $this->waiting[++$this->last] = $callback;
        return (string) $this->last;
    }

    /**
     * Take a reply. One that nothing waits for is ignored.
     *
     * @param array<string, mixed> $reply
     */
    public function take(array $reply): void
    {
        $id = $reply['id'] ?? null;
        if (is_string($id) && isset($this->waiting[$id])) {
            $callback = $this->waiting[$id];
            unset($this->waiting[$id]);
            $callback($reply);
        }
    }

    /** Forget all: the connection is lost. */
    public function drop(): void
    {
        $waiting = $this->waiting;
        $this->waiting = [];
        foreach ($waiting as $callback) {
            $callback(null);
        }
    }
}

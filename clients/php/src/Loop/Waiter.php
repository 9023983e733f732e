<?php

declare(strict_types=1);

namespace Realizehit\Loop;

/**
 * How the clients wait. The default blocks; a program with an event loop gives one that suspends the current fiber, so that
 * other fibers go on meanwhile.
 */
interface Waiter
{
    /**
     * Return when one of the streams is ready or the time is up. It may return earlier.
     *
     * @param list<resource> $read streams to read from.
     * @param list<resource> $write streams to write to.
     * @param float $seconds the longest time to wait.
     */
    public function wait(array $read, array $write, float $seconds): void;
}

<?php

declare(strict_types=1);

namespace Realizehit\Loop;

/**
 * Waits with `stream_select`, and blocks the process meanwhile.
 */
final class BlockingWaiter implements Waiter
{
    public function wait(array $read, array $write, float $seconds): void
    {
        $microseconds = (int) ceil(max($seconds, 0.0) * 1e6);
        if ($read === [] && $write === []) {
            usleep(min($microseconds, 1_000_000));
            return;
        }
        $except = [];
        // A signal ends it early, with a warning.
        @stream_select($read, $write, $except, intdiv($microseconds, 1_000_000), $microseconds % 1_000_000);
    }
}

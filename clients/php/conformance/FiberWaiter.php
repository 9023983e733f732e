<?php

declare(strict_types=1);

namespace Realizehit\Conformance;

use Realizehit\Loop\Waiter;

/**
 * Waits by suspending the current fiber. The scheduler resumes it.
 */
final class FiberWaiter implements Waiter
{
    public function wait(array $read, array $write, float $seconds): void
    {
        \Fiber::suspend([$read, $write, hrtime(true) / 1e9 + $seconds]);
    }
}

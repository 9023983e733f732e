<?php

declare(strict_types=1);

namespace Realizehit\Internal;

/**
 * Random delays before another attempt ("full jitter"), in seconds.
 *
 * @internal
 */
final class Backoff
{
    /** The longest delay that a server may ask for. */
    private const MAX_REQUESTED = 300.0;

    private int $attempts = 0;
    private int $requests = 0;

    public function __construct(private readonly float $base, private readonly float $cap)
    {
    }

    /** Return a delay that is drawn evenly from zero to a bound; the bound doubles with each attempt. */
    public function delay(int $attempt): float
    {
        return mt_rand() / mt_getrandmax() * min($this->cap, $this->base * 2 ** min($attempt, 60));
    }

    /** Return the delay before the next attempt. */
    public function next(): float
    {
        return $this->delay($this->attempts++);
    }

    /** Return the delay before the next attempt where the server asked for one. */
    public function requested(float $seconds): float
    {
        // If servers ask for no delay one after the other, the client pauses nevertheless.
        $least = $this->requests === 0 ? 0.0 : $this->delay($this->requests);
        $this->requests++;
        return min(max($seconds, $least), self::MAX_REQUESTED);
    }

    /** Begin again: an attempt has succeeded. */
    public function reset(): void
    {
        $this->attempts = 0;
        $this->requests = 0;
    }
}

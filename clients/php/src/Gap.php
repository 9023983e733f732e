<?php

declare(strict_types=1);

namespace Realizehit;

/**
 * Messages of a subscription are missing, or may be.
 */
final class Gap
{
    /**
     * @param float $seconds how long messages may have been missed; 0 if the queue dropped them.
     * @param int $dropped how many messages the full queue of the subscription dropped.
     */
    public function __construct(public readonly float $seconds, public readonly int $dropped = 0)
    {
    }
}

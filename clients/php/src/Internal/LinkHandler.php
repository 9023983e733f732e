<?php

declare(strict_types=1);

namespace Realizehit\Internal;

use Realizehit\Exception\RealizehitException;

/**
 * What a link tells its client.
 *
 * @internal
 */
final class LinkHandler
{
    /**
     * @param \Closure(): void $opened the connection is open, for the first time or again.
     * @param \Closure(RealizehitException, float): void $lost the open connection is lost, and when something last came over it.
     * @param \Closure(RealizehitException): void $attemptFailed an attempt to connect failed, and another one follows.
     * @param \Closure(RealizehitException): void $gaveUp there will be no further attempt.
     */
    public function __construct(
        public readonly \Closure $opened,
        public readonly \Closure $lost,
        public readonly \Closure $attemptFailed,
        public readonly \Closure $gaveUp,
    ) {
    }
}

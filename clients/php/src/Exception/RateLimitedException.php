<?php

declare(strict_types=1);

namespace Realizehit\Exception;

/**
 * Too many requests in a short time.
 */
class RateLimitedException extends RealizehitException
{
}

<?php

declare(strict_types=1);

namespace Realizehit\Exception;

/**
 * The key or the client may not publish or subscribe to this pattern.
 */
class ForbiddenException extends RealizehitException
{
}

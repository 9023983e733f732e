<?php

declare(strict_types=1);

namespace Realizehit\Exception;

/**
 * The key or the token is missing, unknown or expired.
 */
class NotAuthenticatedException extends RealizehitException
{
}

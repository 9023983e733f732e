<?php

declare(strict_types=1);

namespace Realizehit\Exception;

/**
 * A payload or a request is larger than the server allows.
 */
class TooLargeException extends RealizehitException
{
}

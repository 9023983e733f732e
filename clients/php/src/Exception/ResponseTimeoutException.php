<?php

declare(strict_types=1);

namespace Realizehit\Exception;

/**
 * The server did not answer an action in time.
 */
class ResponseTimeoutException extends RealizehitException
{
}

<?php

declare(strict_types=1);

namespace Realizehit\Exception;

/**
 * A request that the server cannot read, such as a payload that is not JSON.
 */
class BadRequestException extends RealizehitException
{
}

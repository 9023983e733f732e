<?php

declare(strict_types=1);

namespace Realizehit\Exception;

/**
 * The payload of a message is not JSON.
 */
class PayloadException extends RealizehitException
{
}

<?php

declare(strict_types=1);

namespace Realizehit\Exception;

/**
 * The client was closed, or has ended.
 */
class ClientClosedException extends RealizehitException
{
}

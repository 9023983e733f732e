<?php

declare(strict_types=1);

namespace Realizehit\Exception;

/**
 * The connection was lost. `status` is its close code, if there was one.
 */
class DisconnectedException extends RealizehitException
{
}

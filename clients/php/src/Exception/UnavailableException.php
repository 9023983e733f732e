<?php

declare(strict_types=1);

namespace Realizehit\Exception;

/**
 * The server or its broker cannot be reached or cannot serve now. Nothing was published.
 */
class UnavailableException extends RealizehitException
{
}

<?php

declare(strict_types=1);

namespace Realizehit\Exception;

/**
 * A pattern breaks a rule; the text names the filter. The code is `bad-pattern`, or `wildcard-unsupported`.
 */
class BadPatternException extends RealizehitException
{
}

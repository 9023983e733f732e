<?php

declare(strict_types=1);

namespace Realizehit\Exception;

/**
 * The function that gives tokens failed, or what it returned is not a token.
 */
class TokenException extends RealizehitException
{
}

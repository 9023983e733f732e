<?php

declare(strict_types=1);

namespace Realizehit\Exception;

/**
 * Any other refusal of the server; `errorCode` and `status` say which.
 */
class RejectedException extends RealizehitException
{
}

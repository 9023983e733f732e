<?php

declare(strict_types=1);

namespace Realizehit\Exception;

/**
 * It is not known whether a message was published: its answer was lost.
 */
class PublishUnclearException extends RealizehitException
{
}

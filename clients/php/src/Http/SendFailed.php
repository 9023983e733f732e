<?php

declare(strict_types=1);

namespace Realizehit\Http;

/**
 * A request has no complete response.
 */
final class SendFailed extends \RuntimeException
{
    /**
     * @param bool $wasSent whether the server may have got the request.
     * @param bool $mayRepeat whether another attempt can succeed.
     */
    public function __construct(
        string $message,
        public readonly bool $wasSent,
        public readonly bool $mayRepeat = true,
        ?\Throwable $previous = null,
    ) {
        parent::__construct($message, 0, $previous);
    }
}

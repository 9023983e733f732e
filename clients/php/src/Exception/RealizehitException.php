<?php

declare(strict_types=1);

namespace Realizehit\Exception;

/**
 * The base of all errors of this package.
 */
class RealizehitException extends \RuntimeException
{
    /**
     * @param string $message text for people; it may change.
     * @param string $errorCode the stable code of the server or the client, for programs; empty if there is none.
     * @param int|null $status the HTTP status, or the close code of a WebSocket; null if there was none.
     */
    public function __construct(
        string $message,
        public readonly string $errorCode = '',
        public readonly ?int $status = null,
        ?\Throwable $previous = null,
    ) {
        parent::__construct($message, 0, $previous);
    }

    /**
     * Make the error that a refusal of the server means.
     *
     * @param string $code the server's stable code; empty if it sent none.
     * @param int|null $status the HTTP status; null for a reply over a WebSocket.
     */
    public static function fromServer(string $message, string $code, ?int $status = null): self
    {
        $class = match ($code) {
            'bad-pattern', 'wildcard-unsupported' => BadPatternException::class,
            'forbidden' => ForbiddenException::class,
            'not-authenticated' => NotAuthenticatedException::class,
            'rate-limited' => RateLimitedException::class,
            'too-large' => TooLargeException::class,
            'unavailable', 'too-many-connections' => UnavailableException::class,
            'bad-json', 'bad-request', 'unsupported-media-type' => BadRequestException::class,
            default => match ($status) {
                400, 415 => BadRequestException::class,
                401 => NotAuthenticatedException::class,
                403 => ForbiddenException::class,
                413 => TooLargeException::class,
                429 => RateLimitedException::class,
                503 => UnavailableException::class,
                default => RejectedException::class,
            },
        };
        return new $class($message, $code, $status);
    }
}

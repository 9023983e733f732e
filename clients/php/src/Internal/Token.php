<?php

declare(strict_types=1);

namespace Realizehit\Internal;

use Realizehit\Exception\TokenException;

/**
 * Where a client has its tokens from.
 *
 * @internal
 */
final class Token
{
    private readonly ?\Closure $function;
    private readonly ?string $fixed;

    /**
     * @param string|callable(): string|null $token
     * @throws \ValueError a fixed token cannot stand in a header.
     */
    public function __construct(#[\SensitiveParameter] string|callable|null $token)
    {
        $this->fixed = is_string($token) ? $token : null;
        $this->function = $token === null || is_string($token) ? null : $token(...);
        if ($this->fixed !== null && !self::isValid($this->fixed)) {
            throw new \ValueError('the token is not a text of visible ASCII characters');
        }
    }

    /** Whether each call of `current` gives a fresh one. */
    public function isFresh(): bool
    {
        return $this->function !== null;
    }

    /**
     * Return a token; null if the client has none.
     *
     * @throws TokenException the function failed.
     */
    public function current(): ?string
    {
        if ($this->function === null) {
            return $this->fixed;
        }
        try {
            $token = ($this->function)();
        } catch (\Throwable $error) {
            throw new TokenException("there is no token: {$error->getMessage()}", '', null, $error);
        }
        if (!is_string($token) || !self::isValid($token)) {
            throw new TokenException('there is no token: the function did not return a text of visible ASCII characters');
        }
        return $token;
    }

    private static function isValid(#[\SensitiveParameter] string $token): bool
    {
        return preg_match('/^[\x21-\x7e]+$/D', $token) === 1;
    }
}

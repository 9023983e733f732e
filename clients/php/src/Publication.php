<?php

declare(strict_types=1);

namespace Realizehit;

use Realizehit\Exception\BadPatternException;
use Realizehit\Exception\BadRequestException;

/**
 * A message to publish.
 */
final class Publication
{
    /** @internal */
    public const JSON = JSON_THROW_ON_ERROR | JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES | JSON_PRESERVE_ZERO_FRACTION;

    public readonly Pattern $pattern;

    /**
     * @param array<int|string, string|int|float|bool>|object $pattern its filters.
     * @param mixed $payload a value that `json_encode` writes, or a `RawJson`.
     * @param string|null $key an idempotency key of at most 64 characters; null for one that the client makes.
     * @throws BadPatternException the pattern breaks a rule.
     */
    public function __construct(array|object $pattern, public readonly mixed $payload, public readonly ?string $key = null)
    {
        $this->pattern = Pattern::of($pattern);
        if ($key !== null && preg_match('/^[\x21-\x7e]{1,64}$/D', $key) !== 1) {
            throw new \ValueError('an idempotency key has 1 to 64 visible ASCII characters');
        }
    }

    /**
     * Make one of an array with `pattern`, `payload` and perhaps `key`.
     *
     * @param array<string, mixed> $message
     * @throws BadPatternException the pattern is missing or breaks a rule.
     * @throws BadRequestException the payload is missing.
     */
    public static function from(array $message): self
    {
        $pattern = $message['pattern'] ?? null;
        if (!is_array($pattern) && !is_object($pattern)) {
            throw new BadPatternException('a pattern is a set of filters, not ' . get_debug_type($pattern), 'bad-pattern');
        }
        if (!array_key_exists('payload', $message)) {
            throw new BadRequestException('payload is missing', 'bad-request');
        }
        return new self($pattern, $message['payload'], $message['key'] ?? null);
    }

    /**
     * Return its JSON text, for a batch with its key.
     *
     * @throws \JsonException the payload cannot be written as JSON.
     * @internal
     */
    public function json(?string $key = null): string
    {
        $payload = $this->payload instanceof RawJson ? $this->payload->text : json_encode($this->payload, self::JSON);
        $pattern = json_encode($this->pattern, self::JSON);
        return "{\"pattern\":$pattern,\"payload\":$payload" . ($key === null ? '' : ',"key":' . json_encode($key)) . '}';
    }
}

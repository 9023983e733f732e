<?php

declare(strict_types=1);

namespace Realizehit;

use Realizehit\Exception\BadRequestException;

/**
 * A payload that is JSON text already. It is published byte for byte.
 */
final class RawJson
{
    private const MAX_DEPTH = 100_000;

    /**
     * @param string $text one JSON value, in UTF-8.
     * @throws BadRequestException it is not JSON.
     */
    public function __construct(public readonly string $text)
    {
        json_decode($text, true, self::MAX_DEPTH);
        if (json_last_error() === JSON_ERROR_UTF16) {
            // RFC 8259 allows the escape of a lone surrogate, which PHP cannot decode: check the text without them.
            $checked = preg_replace_callback(
                '/\\\\(?:u[dD][89a-fA-F][0-9a-fA-F]{2}|.)/s',
                static fn (array $escape): string => strlen($escape[0]) === 6 ? '\\n' : $escape[0],
                $text,
            );
            json_decode((string) $checked, true, self::MAX_DEPTH);
        }
        if (json_last_error() !== JSON_ERROR_NONE) {
            throw new BadRequestException('the payload is not JSON: ' . json_last_error_msg(), 'bad-json');
        }
    }
}

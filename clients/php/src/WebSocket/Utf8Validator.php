<?php

declare(strict_types=1);

namespace Realizehit\WebSocket;

/**
 * Checks UTF-8 that comes in pieces, and finds an error in the piece that holds it.
 *
 * @internal
 */
final class Utf8Validator
{
    /** Beginnings of a character that further bytes can complete. */
    private const INCOMPLETE = '/^(?:[\xC2-\xF4]|\xE0[\xA0-\xBF]|[\xE1-\xEC\xEE\xEF][\x80-\xBF]|\xED[\x80-\x9F]'
        . '|\xF0[\x90-\xBF][\x80-\xBF]?|[\xF1-\xF3][\x80-\xBF]{1,2}|\xF4[\x80-\x8F][\x80-\xBF]?)$/D';

    private string $tail = '';

    /** Take a piece; return whether all pieces so far can be the beginning of a valid text. */
    public function accepts(string $piece): bool
    {
        $text = $this->tail . $piece;
        $size = strlen($text);
        $incomplete = 0;
        for ($back = 1; $back <= 3 && $back <= $size; $back++) {
            $byte = ord($text[$size - $back]);
            if (($byte & 0xC0) !== 0x80) {
                $length = match (true) {
                    $byte >= 0xF0 => 4,
                    $byte >= 0xE0 => 3,
                    $byte >= 0xC0 => 2,
                    default => 1,
                };
                $incomplete = $length > $back ? $back : 0;
                break;
            }
        }
        $this->tail = $incomplete === 0 ? '' : substr($text, -$incomplete);
        if ($this->tail !== '' && preg_match(self::INCOMPLETE, $this->tail) !== 1) {
            return false;
        }
        return preg_match('//u', $incomplete === 0 ? $text : substr($text, 0, -$incomplete)) === 1;
    }

    /** Whether the pieces end with a whole character. Begins a new text. */
    public function finish(): bool
    {
        $isComplete = $this->tail === '';
        $this->tail = '';
        return $isComplete;
    }
}

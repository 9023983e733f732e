<?php

declare(strict_types=1);

namespace Realizehit;

use Realizehit\Exception\BadPatternException;

/**
 * A set of filters, such as `['kind' => 'news', 'channel' => 'CNN']`, with its canonical text and id.
 */
final class Pattern implements \JsonSerializable
{
    public const MAX_FILTERS = 16;
    /** Bytes of an encoded key. */
    public const MAX_KEY = 64;
    /** Bytes of an encoded value. */
    public const MAX_VALUE = 256;
    /** Bytes of the canonical text. */
    public const MAX_CHANNEL = 1024;

    private const SHOWN = 40;

    /** The canonical text. It is the name of the channel at the broker. */
    public readonly string $channel;
    /** The label of its payloads on the wire, 8 hex digits. Two patterns can have one id. */
    public readonly string $id;
    /** Whether it leaves something open, so that it can only be subscribed to. */
    public readonly bool $isWildcard;

    /** @var array<int|string, string|int|float|bool> */
    private readonly array $filters;

    /**
     * @param array<int|string, string|int|float|bool>|object $filters keys and values; an object has its public properties as
     *   filters. The value `*` leaves a filter open, and the filter `'*' => '*'` allows further filters.
     * @throws BadPatternException a rule is broken; the text names the filter.
     */
    public function __construct(array|object $filters)
    {
        if (is_array($filters) && $filters !== [] && array_is_list($filters)) {
            throw self::bad('a pattern has keys, and this is a list; give an object if its keys are 0, 1, …');
        }
        if (is_object($filters)) {
            $filters = $filters instanceof self ? $filters->filters : get_object_vars($filters);
        }
        if ($filters === []) {
            throw self::bad('a pattern needs at least one filter');
        }
        if (count($filters) > self::MAX_FILTERS) {
            throw self::bad(sprintf('the pattern has %d filters, at most %d', count($filters), self::MAX_FILTERS));
        }
        $parts = [];
        $isWildcard = false;
        foreach ($filters as $key => $value) {
            $key = (string) $key;
            if ($key === '*' && $value !== '*') {
                throw self::bad('the key "*" takes only the value "*"');
            }
            $isWildcard = $isWildcard || $value === '*';
            $encodedKey = $key === '*' ? '*' : self::encoded($key, 'the key', self::MAX_KEY);
            $name = 'the value of ' . self::shown($key);
            $parts[] = [$encodedKey, $value === '*' ? '*' : self::encoded(self::textOf($value, $name), $name, self::MAX_VALUE)];
        }
        usort($parts, static fn (array $one, array $other): int => strcmp($one[0], $other[0]));
        $channel = implode('|', array_map(static fn (array $part): string => "$part[0]:$part[1]", $parts));
        if (strlen($channel) > self::MAX_CHANNEL) {
            throw self::bad(sprintf('the channel has %d bytes, at most %d', strlen($channel), self::MAX_CHANNEL));
        }
        $this->filters = $filters;
        $this->channel = $channel;
        $this->id = substr(md5($channel), 0, 8);
        $this->isWildcard = $isWildcard;
    }

    /**
     * Return a pattern, from its filters where it is not one already.
     *
     * @param array<int|string, string|int|float|bool>|object $pattern
     * @throws BadPatternException
     */
    public static function of(array|object $pattern): self
    {
        return $pattern instanceof self ? $pattern : new self($pattern);
    }

    /**
     * Return the filters of a canonical text, decoded. All values are texts.
     *
     * @return array<int|string, string>
     * @throws BadPatternException the text is not that of a pattern.
     */
    public static function filtersOf(string $channel): array
    {
        $filters = [];
        foreach (explode('|', $channel) as $filter) {
            $parts = explode(':', $filter);
            if (count($parts) !== 2 || $parts[0] === '' || $parts[1] === '') {
                throw self::bad('the channel ' . self::shown($channel) . ' is malformed');
            }
            foreach ($parts as $part) {
                if (!preg_match('/^(?:[0-9A-Za-z\-._~*]|%[0-9A-F]{2})+$/D', $part) || !preg_match('//u', rawurldecode($part))) {
                    throw self::bad('the channel ' . self::shown($channel) . ' is malformed');
                }
            }
            $filters[rawurldecode($parts[0])] = rawurldecode($parts[1]);
        }
        return $filters;
    }

    /**
     * The filters as they were given.
     *
     * @return array<int|string, string|int|float|bool>
     */
    public function filters(): array
    {
        return $this->filters;
    }

    public function jsonSerialize(): object
    {
        return (object) $this->filters;
    }

    public function __toString(): string
    {
        return $this->channel;
    }

    private static function encoded(string $text, string $what, int $most): string
    {
        if ($text === '') {
            throw self::bad("$what is empty");
        }
        if (!preg_match('//u', $text)) {
            throw self::bad("$what is not UTF-8");
        }
        $encoded = rawurlencode($text);
        if (strlen($encoded) > $most) {
            throw self::bad(sprintf('%s %s has %d bytes, at most %d', $what, self::shown($text), strlen($encoded), $most));
        }
        return $encoded;
    }

    private static function textOf(mixed $value, string $name): string
    {
        return match (true) {
            is_string($value) => $value,
            is_int($value) => (string) $value,
            is_bool($value) => $value ? 'true' : 'false',
            is_float($value) && is_finite($value) => self::floatText($value),
            default => throw self::bad(
                sprintf('%s is %s; a value is a text, a finite number, true or false', $name, get_debug_type($value)),
            ),
        };
    }

    /** Write a float as ECMAScript's Number::toString does. */
    private static function floatText(float $value): string
    {
        if ($value === 0.0) {
            return '0';
        }
        $sign = $value < 0 ? '-' : '';
        $value = abs($value);
        $precision = -1;
        do {
            $text = sprintf('%.' . ++$precision . 'e', $value);
        } while ((float) $text !== $value && $precision < 16);
        [$mantissa, $exponent] = explode('e', $text);
        $digits = str_replace('.', '', $mantissa);
        $count = strlen($digits);
        $point = (int) $exponent + 1; // digits before the point
        if ($point >= $count && $point <= 21) {
            return $sign . $digits . str_repeat('0', $point - $count);
        }
        if ($point > 0 && $point <= 21) {
            return $sign . substr($digits, 0, $point) . '.' . substr($digits, $point);
        }
        if ($point > -6 && $point <= 0) {
            return $sign . '0.' . str_repeat('0', -$point) . $digits;
        }
        $scientific = $count === 1 ? $digits : $digits[0] . '.' . substr($digits, 1);
        return $sign . $scientific . 'e' . ($point > 0 ? '+' : '-') . abs($point - 1);
    }

    private static function shown(string $text): string
    {
        $shown = json_encode($text, JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES | JSON_INVALID_UTF8_SUBSTITUTE);
        preg_match('/^.{0,' . self::SHOWN . '}/us', (string) $shown, $start);
        return strlen($start[0]) < strlen((string) $shown) ? "$start[0]…" : $start[0];
    }

    private static function bad(string $text): BadPatternException
    {
        return new BadPatternException($text, 'bad-pattern');
    }
}

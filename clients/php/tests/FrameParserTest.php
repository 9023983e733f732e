<?php

declare(strict_types=1);

namespace Realizehit\Tests;

use PHPUnit\Framework\TestCase;
use Realizehit\Tests\Support\WebSocketServer;
use Realizehit\WebSocket\Frame;
use Realizehit\WebSocket\FrameParser;

/**
 * Cases like those of the Autobahn test suite; the numbers are those of its chapters.
 */
final class FrameParserTest extends TestCase
{
    private const MAX = 1 << 20;

    /**
     * @return array{list<string|array{int, string}>, int|null} what came, and the close code of the error
     */
    private static function parse(string $bytes, int $chop, int $max = self::MAX): array
    {
        $parser = new FrameParser($max);
        $found = [];
        foreach (str_split($bytes, $chop) as $piece) {
            foreach ($parser->feed($piece) as $each) {
                $found[] = is_string($each) ? $each : [$each->opcode, $each->payload];
            }
        }
        return [$found, $parser->failureCode];
    }

    /** @return iterable<string, array{string, list<mixed>, int|null}> bytes, what comes of them, the close code of the error */
    public function cases(): iterable
    {
        $frame = WebSocketServer::frame(...);
        // 1: framing
        foreach ([0, 125, 126, 127, 128, 65535, 65536] as $size) {
            $text = str_repeat('*', $size);
            yield "1.1 text of $size" => [$frame(0x81, $text), [$text], null];
            yield "1.2 binary of $size" => [$frame(0x82, $text), [[Frame::BINARY, $text]], null];
        }
        // 2: pings and pongs
        yield '2.1 empty ping' => [$frame(0x89, ''), [[Frame::PING, '']], null];
        yield '2.4 ping of 125' => [$frame(0x89, str_repeat("\xfe", 125)), [[Frame::PING, str_repeat("\xfe", 125)]], null];
        yield '2.5 ping of 126' => ["\x89\x7e\x00\x7e" . str_repeat('x', 126), [], 1002];
        yield '2.7 pong nobody asked for' => [$frame(0x8A, 'x') . $frame(0x81, 'a'), [[Frame::PONG, 'x'], 'a'], null];
        // 3: reserved bits
        foreach ([0x10, 0x20, 0x30, 0x40, 0x70] as $bits) {
            yield "3 reserved bits $bits" => [$frame(0x81, 'a') . $frame(0x81 | $bits, 'b') . $frame(0x81, 'c'), ['a'], 1002];
            yield "3 reserved bits $bits of a ping" => [$frame(0x89 | $bits, ''), [], 1002];
        }
        // 4: reserved opcodes
        foreach ([3, 4, 5, 6, 7, 11, 12, 13, 14, 15] as $opcode) {
            yield "4 opcode $opcode" => [$frame(0x81, 'a') . $frame(0x80 | $opcode, ''), ['a'], 1002];
        }
        // 5: fragments
        yield '5.1 ping in fragments' => [$frame(0x09, 'a') . $frame(0x80, 'b'), [], 1002];
        yield '5.3 two fragments' => [$frame(0x01, 'a') . $frame(0x80, 'b'), ['ab'], null];
        yield '5.6 ping between' => [$frame(0x01, 'a') . $frame(0x89, 'p') . $frame(0x80, 'b'), [[Frame::PING, 'p'], 'ab'], null];
        yield '5.9 continuation of nothing' => [$frame(0x80, 'a') . $frame(0x81, 'b'), [], 1002];
        yield '5.15 continuation after the end' => [$frame(0x01, 'a') . $frame(0x80, 'b') . $frame(0x00, 'c'), ['ab'], 1002];
        yield '5.18 text in a text' => [$frame(0x01, 'a') . $frame(0x81, 'b'), [], 1002];
        yield '5.18 binary in a text' => [$frame(0x01, 'a') . $frame(0x82, 'b'), [], 1002];
        yield '5.19 five fragments' => [
            $frame(0x01, '1') . $frame(0x00, '2') . $frame(0x89, 'p') . $frame(0x00, '') . $frame(0x00, '4') . $frame(0x8A, 'q')
                . $frame(0x80, '5'),
            [[Frame::PING, 'p'], [Frame::PONG, 'q'], '1245'],
            null,
        ];
        yield '6.1 empty fragments' => [$frame(0x01, '') . $frame(0x00, '') . $frame(0x80, ''), [''], null];
        yield '5 binary fragments' => [$frame(0x02, "\xff") . $frame(0x80, "\xfe"), [[Frame::BINARY, "\xff\xfe"]], null];
        // 6: UTF-8
        $greek = "\u{3ba}\u{1f79}\u{3c3}\u{3bc}\u{3b5}";
        yield '6.2 text in fragments of a byte' => [
            $frame(0x01, '') . implode('', array_map(static fn (string $byte) => $frame(0x00, $byte), str_split($greek)))
                . $frame(0x80, ''),
            [$greek],
            null,
        ];
        foreach (self::validTexts() as $text) {
            yield '6.5 valid ' . bin2hex($text) => [$frame(0x81, $text), [$text], null];
            $fragments = $frame(0x01, $text[0]) . $frame(0x80, substr($text, 1));
            yield '6.5 valid in fragments ' . bin2hex($text) => [$fragments, [$text], null];
        }
        foreach (self::invalidTexts() as $text) {
            yield '6 invalid ' . bin2hex($text) => [$frame(0x81, $text), [], 1007];
            $fragments = $frame(0x01, $text[0]) . $frame(0x80, substr($text, 1));
            yield '6 invalid in fragments ' . bin2hex($text) => [$fragments, [], 1007];
        }
        // 9 and 10: sizes
        yield 'at the bound' => [$frame(0x81, str_repeat('x', self::MAX)), [str_repeat('x', self::MAX)], null];
        yield 'past the bound' => [$frame(0x81, str_repeat('x', self::MAX + 1)), [], 1009];
        yield 'past the bound in fragments' => [
            $frame(0x01, str_repeat('x', self::MAX)) . $frame(0x89, '') . $frame(0x80, 'x'), [[Frame::PING, '']], 1009,
        ];
        // Lengths and masks
        yield 'masked' => ["\x81\x81\x00\x00\x00\x00a", [], 1002];
        yield 'length with the highest bit' => ["\x81\x7f\x80\x00\x00\x00\x00\x00\x00\x01", [], 1002];
        yield 'length that is not minimal, 16 bits' => ["\x81\x7e\x00\x01a", [], 1002];
        yield 'length that is not minimal, 64 bits' => ["\x81\x7f\x00\x00\x00\x00\x00\x00\x00\x01a", [], 1002];
    }

    /**
     * @dataProvider cases
     * @param list<mixed> $found
     */
    public function testAtOnceAndInPieces(string $bytes, array $found, ?int $code): void
    {
        foreach (strlen($bytes) < 1000 ? [PHP_INT_MAX, 1, 2, 3, 5, 7] : [PHP_INT_MAX, 1021, 65536] as $chop) {
            self::assertSame([$found, $code], self::parse($bytes, $chop), "in pieces of $chop");
        }
    }

    public function testInvalidTextFailsBeforeTheFrameEnds(): void
    {
        $parser = new FrameParser(self::MAX);
        // 6.4: the frame has 20 bytes, of which the fifth cannot follow the fourth
        self::assertSame([], $parser->feed("\x81\x14abc\xf4"));
        self::assertNull($parser->failureCode);
        $parser->feed("\x90");
        self::assertSame(1007, $parser->failureCode);
    }

    public function testInvalidTextFailsBeforeTheLastFragment(): void
    {
        $parser = new FrameParser(self::MAX);
        $parser->feed("\x01\x04abc\xed");
        self::assertNull($parser->failureCode);
        $parser->feed("\x00\x01\xa0");
        self::assertSame(1007, $parser->failureCode);
    }

    public function testReservedBitsFailBeforeTheFrameEnds(): void
    {
        $parser = new FrameParser(self::MAX);
        $parser->feed("\xf1\x7f");
        self::assertSame(1002, $parser->failureCode);
    }

    public function testOversizedMessageFailsByItsHead(): void
    {
        $parser = new FrameParser(1000);
        $parser->feed("\x81\x7f\x00\x00\x7f\xff\xff\xff\xff\xff");
        self::assertSame(1009, $parser->failureCode);
    }

    public function testNothingIsReadAfterAnError(): void
    {
        $parser = new FrameParser(self::MAX);
        $parser->feed("\xf1\x00");
        self::assertSame([], $parser->feed("\x81\x01a"));
    }

    /** @return list<string> */
    private static function validTexts(): array
    {
        return [
            "\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5", "\xc2\x80", "\xe0\xa0\x80", "\xf0\x90\x80\x80", "\x7f", "\xdf\xbf",
            "\xef\xbf\xbf", "\xf4\x8f\xbf\xbf", "\xed\x9f\xbf", "\xee\x80\x80", "\xef\xbf\xbd", "\xef\xbf\xbe", "a\x00b",
        ];
    }

    /** @return list<string> */
    private static function invalidTexts(): array
    {
        return [
            "\xf8\x88\x80\x80\x80", "\xfc\x84\x80\x80\x80\x80", "\xf7\xbf\xbf\xbf", "\xf4\x90\x80\x80", "\x80", "\xbf",
            "\x80\xbf", "\xc0 ", "\xc1\xbf", "\xc0\xaf", "\xe0\x80\xaf", "\xe0\x9f\xbf", "\xf0\x80\x80\xaf", "\xf0\x8f\xbf\xbf",
            "\xed\xa0\x80", "\xed\xbf\xbf", "\xed\xa0\x80\xed\xb0\x80", "\xfe", "\xff", "\xce", "\xe2\x82", "\xf0\x9f\x98",
            "a\xe2\x28",
            "\xce\xba\xed\xa0\x80edited",
        ];
    }
}

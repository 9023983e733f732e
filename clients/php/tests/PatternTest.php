<?php

declare(strict_types=1);

namespace Realizehit\Tests;

use PHPUnit\Framework\TestCase;
use Realizehit\Exception\BadPatternException;
use Realizehit\Exception\BadRequestException;
use Realizehit\Exception\PayloadException;
use Realizehit\Message;
use Realizehit\Pattern;
use Realizehit\RawJson;

final class PatternTest extends TestCase
{
    private static function vectors(): \stdClass
    {
        $file = __DIR__ . '/../../../tests/vectors.json';
        return json_decode((string) file_get_contents($file), false, 512, JSON_THROW_ON_ERROR | JSON_BIGINT_AS_STRING);
    }

    /** @return iterable<string, array{\stdClass, string, string}> */
    public function valid(): iterable
    {
        $vectors = self::vectors();
        foreach ([...$vectors->valid, ...$vectors->subscription_only] as $number => $row) {
            yield "$number $row->channel" => [$row->in, $row->channel, $row->id];
        }
    }

    /** @dataProvider valid */
    public function testVectors(\stdClass $filters, string $channel, string $id): void
    {
        $pattern = new Pattern($filters);
        self::assertSame([$channel, $id], [$pattern->channel, $pattern->id]);
        self::assertSame($channel, (new Pattern($pattern))->channel);
    }

    public function testInvalidVectors(): void
    {
        $count = 0;
        foreach (self::vectors()->invalid as $row) {
            if (is_array($row->in) || is_object($row->in)) {
                try {
                    new Pattern($row->in);
                    self::fail("it is valid, though $row->why");
                } catch (BadPatternException $error) {
                    self::assertSame('bad-pattern', $error->errorCode);
                    $count++;
                }
            }
        }
        self::assertGreaterThan(10, $count);
    }

    /** @return iterable<array{float, string}> */
    public function floats(): iterable
    {
        yield [0.1, '0.1'];
        yield [1e-6, '0.000001'];
        yield [1e-7, '1e-7'];
        yield [1.5e300, '1.5e%2B300'];
        yield [5e-324, '5e-324'];
        yield [123456789.125, '123456789.125'];
        yield [1e21, '1e%2B21'];
        yield [123456789012345680000.0, '123456789012345680000'];
        yield [-2.5, '-2.5'];
        yield [3.0, '3'];
        yield [-0.0, '0'];
        yield [0.30000000000000004, '0.30000000000000004'];
    }

    /** @dataProvider floats */
    public function testFloatsAsInJavaScript(float $value, string $text): void
    {
        $before = ini_set('serialize_precision', '17');
        try {
            self::assertSame("a:$text", (new Pattern(['a' => $value]))->channel);
        } finally {
            ini_set('serialize_precision', (string) $before);
        }
    }

    /** @return iterable<string, array{mixed, string}> */
    public function invalid(): iterable
    {
        yield 'list' => [['a', 'b'], 'list'];
        yield 'not UTF-8' => [['a' => "\xff"], 'the value of "a" is not UTF-8'];
        yield 'not a number' => [['a' => NAN], 'the value of "a" is float'];
        yield 'object' => [['a' => new \stdClass()], 'the value of "a" is stdClass'];
        yield 'long key' => [[str_repeat('k', 65) => 1], 'has 65 bytes, at most 64'];
    }

    /** @dataProvider invalid */
    public function testErrorsNameTheFilter(mixed $filters, string $text): void
    {
        $this->expectException(BadPatternException::class);
        $this->expectExceptionMessage($text);
        new Pattern($filters);
    }

    public function testNumericKeysAndObjects(): void
    {
        self::assertSame('1:b|10:c', (new Pattern([1 => 'b', 10 => 'c']))->channel);
        self::assertSame('0:a', (new Pattern((object) ['0' => 'a']))->channel);
        self::assertSame('{"1":"b","10":"c"}', json_encode(new Pattern([1 => 'b', 10 => 'c'])));
    }

    public function testMalformedChannels(): void
    {
        foreach (['', 'a', 'a:', ':a', 'a:b:c', 'a:b|', 'a:%zz', 'a:%ff', 'a:b c', 'a:%FF'] as $channel) {
            try {
                Pattern::filtersOf($channel);
                self::fail("\"$channel\" was read");
            } catch (BadPatternException $error) {
                self::assertStringContainsString('malformed', $error->getMessage());
            }
        }
    }

    public function testPatternAndPayloadOfAMessage(): void
    {
        $message = new Message('{"a":[1,2.5]}', 'city:S%C3%A3o%20Paulo|kind:news');
        self::assertSame(['city' => 'São Paulo', 'kind' => 'news'], $message->pattern());
        self::assertSame(['a' => [1, 2.5]], $message->payload());
        self::assertEquals((object) ['a' => [1, 2.5]], $message->payload(objects: true));
        $this->expectException(PayloadException::class);
        (new Message('{broken', 'a:b'))->payload();
    }

    public function testRawJson(): void
    {
        foreach (['1', ' {"a": 1, "a": 2} ', '"\ud800"', '"\\\\ud800"', str_repeat('[', 600) . str_repeat(']', 600)] as $text) {
            self::assertSame($text, (new RawJson($text))->text);
        }
        foreach (['', '{"a": ', '1, "pattern": {"a": 1}', "\"\xff\"", '"\ud800" 1', '"\\ud800" 1'] as $text) {
            try {
                new RawJson($text);
                self::fail("$text is not JSON");
            } catch (BadRequestException $error) {
                self::assertSame('bad-json', $error->errorCode);
            }
        }
    }
}

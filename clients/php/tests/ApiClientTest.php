<?php

declare(strict_types=1);

namespace Realizehit\Tests;

use PHPUnit\Framework\TestCase;
use Realizehit\ApiClient;
use Realizehit\Exception\BadPatternException;
use Realizehit\Exception\BadRequestException;
use Realizehit\Exception\PublishUnclearException;
use Realizehit\Exception\RealizehitException;
use Realizehit\Exception\UnavailableException;
use Realizehit\History;
use Realizehit\Publication;
use Realizehit\PublishResult;
use Realizehit\RawJson;
use Realizehit\StoredMessage;
use Realizehit\Tests\Support\HttpServer;

final class ApiClientTest extends TestCase
{
    private HttpServer $server;

    protected function setUp(): void
    {
        $this->server = new HttpServer();
    }

    protected function tearDown(): void
    {
        $this->server->stop();
    }

    private function client(mixed ...$options): ApiClient
    {
        $url = "http://127.0.0.1:{$this->server->port}/api";
        return new ApiClient($url, ...$options, backoffBase: 0.01, waiter: $this->server);
    }

    public function testPublishes(): void
    {
        $this->server->answers = [HttpServer::response(
            200,
            '{"status": "queued", "id": "bc86961b", "nodes": 2, "at": "k3f09a2c.17", "duplicate": true, "later": 1}',
        )];
        $payload = ['title' => 'é', 'empty' => new \stdClass(), 'f' => 1.0];
        $result = $this->client(key: 'rhk_secret')->publish(['kind' => 'news'], $payload);
        self::assertEquals(new PublishResult('bc86961b', 2, 'k3f09a2c.17', true), $result);
        [$head, $body] = $this->server->requests[0];
        self::assertSame('{"pattern":{"kind":"news"},"payload":{"title":"é","empty":{},"f":1.0}}', $body);
        self::assertStringStartsWith("POST /api/ HTTP/1.1\r\n", $head);
        self::assertMatchesRegularExpression('/^content-type: application\/json\r$/mi', $head);
        self::assertMatchesRegularExpression('/^authorization: Bearer rhk_secret\r$/mi', $head);
        self::assertMatchesRegularExpression('/^idempotency-key: [0-9a-f]{32}\r$/mi', $head);
    }

    public function testTextIsPassedOnByteForByte(): void
    {
        $text = '{"n": 123456789012345678901234567890,  "a":1,"a":2}';
        $this->client()->publish(['kind' => 'news'], new RawJson($text), key: 'order-17');
        self::assertSame("{\"pattern\":{\"kind\":\"news\"},\"payload\":$text}", $this->server->requests[0][1]);
        self::assertMatchesRegularExpression('/^idempotency-key: order-17\r?$/mi', $this->server->requests[0][0]);
    }

    public function testHistoryIsRead(): void
    {
        $body = '{"id":"bc86961b","at":"k3f09a2c.17","first":9,"recovered":true,"more":true,"messages":['
            . '{"at":"k3f09a2c.16","payload":{"a":1},"pattern":{"kind":"news"}},{"at":"k3f09a2c.17","payload":2}]}';
        $this->server->answers = [
            null,
            HttpServer::response(503, '{}'),
            HttpServer::response(200, $body),
            HttpServer::response(404, '{"code":"no-history"}'),
        ];
        $client = $this->client(retryUnclear: false); // reading publishes nothing
        $history = $client->history(['kind' => 'news'], since: 'k3f09a2c.15');
        $expected = 'GET /api/history?pat=%7B%22kind%22%3A%22news%22%7D&since=k3f09a2c.15 HTTP/1.1';
        self::assertStringStartsWith($expected, $this->server->requests[2][0]);
        $messages = [
            new StoredMessage(['a' => 1], 'k3f09a2c.16', ['kind' => 'news']),
            new StoredMessage(2, 'k3f09a2c.17'),
        ];
        self::assertEquals(new History('bc86961b', 'k3f09a2c.17', 9, true, true, $messages), $history);
        self::assertEquals($messages, iterator_to_array($history));
        self::assertCount(2, $history);
        try {
            $client->history(['kind' => 'news'], last: 2);
            self::fail('it was not refused');
        } catch (RealizehitException $error) {
            self::assertSame(['no-history', 404], [$error->errorCode, $error->status]);
        }
        $this->expectException(\ValueError::class);
        $client->history(['kind' => 'news']);
    }

    public function testConnectionIsKept(): void
    {
        $client = $this->client();
        $client->publish(['kind' => 'news'], 1);
        $client->publish(['kind' => 'news'], str_repeat('x', 2_000_000));
        self::assertCount(2, $this->server->requests);
        self::assertSame(1, $this->server->accepted);
    }

    public function testLostAnswerOnAKeptConnectionIsNotRepeatedIfTurnedOff(): void
    {
        $client = $this->client(retryUnclear: false);
        $client->publish(['kind' => 'news'], 1);
        $this->server->answers = [null];
        try {
            $client->publish(['kind' => 'news'], 2);
            self::fail('it is not known whether it was published');
        } catch (PublishUnclearException) {
            self::assertCount(2, $this->server->requests);
        }
        $client->publish(['kind' => 'news'], 3);
        self::assertCount(3, $this->server->requests);
    }

    public function testLostAnswersAreRepeatedByTheSameKey(): void
    {
        $this->server->answers = [null, HttpServer::response(503, '{}')];
        self::assertSame(1, $this->client()->publish(['kind' => 'news'], 1)->nodes);
        self::assertCount(3, $this->server->requests);
        $keys = array_map(static fn (array $request): int => preg_match('/idempotency-key: (\w+)/i', $request[0], $key)
            ? (int) hexdec(substr($key[1], 0, 8)) : 0, $this->server->requests);
        self::assertCount(1, array_unique($keys));
    }

    public function testErrorAfterALostAnswerDoesNotSayThatNothingWasPublished(): void
    {
        $refused = HttpServer::response(503, '{}', "Retry-After: 0\r\n");
        $this->server->answers = [null, $refused, $refused];
        try {
            $this->client()->publish(['kind' => 'news'], 1);
            self::fail('it was refused');
        } catch (PublishUnclearException) {
            self::assertCount(3, $this->server->requests);
        }
    }

    public function testWhatMayBePublishedIsNotSentAgainWhenItsKeyMayBeForgotten(): void
    {
        $this->server->answers = [null, HttpServer::response(503, '{}', "Retry-After: 61\r\n")];
        try {
            $this->client(timeout: 100.0)->publish(['kind' => 'news'], 1);
            self::fail('it was refused');
        } catch (PublishUnclearException) {
            self::assertCount(2, $this->server->requests);
        }
    }

    /** @return iterable<string, array{int, string, string, string, string}> */
    public function refusals(): iterable
    {
        yield 'bad pattern' => [400, '', '{"code": "bad-pattern", "detail": "text"}', 'BadPattern', 'bad-pattern'];
        yield 'bad request' => [400, '', '{"code": "bad-request", "detail": "text"}', 'BadRequest', 'bad-request'];
        yield 'no key' => [401, '', '{"code": "not-authenticated", "detail": "text"}', 'NotAuthenticated', 'not-authenticated'];
        yield 'forbidden' => [403, '', '{"code": "forbidden", "detail": "text"}', 'Forbidden', 'forbidden'];
        yield 'too large' => [413, '', '{"code": "too-large", "detail": "text"}', 'TooLarge', 'too-large'];
        yield 'page' => [404, '', '<h1>text</h1>', 'Rejected', ''];
        yield 'broker' => [502, '', '{"code": "broker-refused", "detail": "text"}', 'Rejected', 'broker-refused'];
        yield 'proxy' => [502, '', '<h1>text</h1>', 'PublishUnclear', ''];
        yield 'lost broker' => [503, '', '{"code": "unavailable", "detail": "text"}', 'PublishUnclear', 'unavailable'];
        yield 'moved' => [307, "Location: /elsewhere\r\n", '', 'Rejected', ''];
        yield 'too late' => [503, "Retry-After: 86400\r\n", '{"code": "unavailable"}', 'Unavailable', 'unavailable'];
    }

    /** @dataProvider refusals */
    public function testRefusals(int $status, string $headers, string $body, string $name, string $code): void
    {
        $this->server->answers = [HttpServer::response($status, $body, $headers)];
        try {
            $this->client(retryUnclear: false)->publish(['kind' => 'news'], 1);
            self::fail('it was refused');
        } catch (RealizehitException $error) {
            self::assertSame("Realizehit\\Exception\\{$name}Exception", $error::class);
            self::assertSame([$code, $status], [$error->errorCode, $error->status]);
        }
        self::assertCount(1, $this->server->requests);
    }

    public function testThreeTries(): void
    {
        $this->server->answers = array_fill(0, 5, HttpServer::response(429, '{"code": "rate-limited"}', "Retry-After: 0\r\n"));
        try {
            $this->client()->publish(['kind' => 'news'], 1);
            self::fail('it was refused');
        } catch (RealizehitException $error) {
            self::assertSame('rate-limited', $error->errorCode);
        }
        self::assertCount(3, $this->server->requests);
    }

    public function testNobodyThere(): void
    {
        $port = $this->server->port;
        $this->server->stop();
        $this->server = new HttpServer();
        $this->expectException(UnavailableException::class);
        (new ApiClient("http://127.0.0.1:$port/", timeout: 2.0, backoffBase: 0.01))->publish(['kind' => 'news'], 1);
    }

    public function testNothingIsSentForWhatIsMalformed(): void
    {
        $client = $this->client();
        foreach ([['a' => ''], ['*' => 'b'], ['a' => null], []] as $pattern) {
            try {
                $client->publish($pattern, 1);
                self::fail('the pattern is malformed');
            } catch (BadPatternException $error) {
                self::assertSame('bad-pattern', $error->errorCode);
            }
        }
        try {
            $client->publish(['a' => 1], NAN);
            self::fail('the payload is malformed');
        } catch (BadRequestException $error) {
            self::assertSame('bad-json', $error->errorCode);
        }
        self::assertSame([], $this->server->requests);
    }

    public function testManyInOneRequestWithOutcomes(): void
    {
        $this->server->answers = [HttpServer::response(200, json_encode(['results' => [
            ['status' => 'queued', 'id' => 'bc86961b', 'nodes' => 1],
            ['status' => 'error', 'index' => 1, 'code' => 'forbidden', 'detail' => 'not yours'],
        ]]))];
        $outcomes = $this->client()->publishMany([
            new Publication(['kind' => 'news'], 1, 'k1'),
            ['pattern' => [], 'payload' => 2],
            ['pattern' => ['kind' => 'sport'], 'payload' => new RawJson('{"a": 1.0}')],
            ['pattern' => ['kind' => 'sport'], 'payload' => NAN],
        ]);
        self::assertEquals(new PublishResult('bc86961b', 1), $outcomes[0]);
        self::assertSame('bad-pattern', $outcomes[1]->errorCode);
        self::assertSame('forbidden', $outcomes[2]->errorCode);
        self::assertSame('bad-json', $outcomes[3]->errorCode);
        self::assertCount(1, $this->server->requests);
        self::assertStringStartsWith('POST /api/batch ', $this->server->requests[0][0]);
        $messages = json_decode($this->server->requests[0][1], true)['messages'];
        self::assertSame(['k1', ['kind' => 'sport']], [$messages[0]['key'], $messages[1]['pattern']]);
        self::assertStringContainsString('{"a": 1.0}', $this->server->requests[0][1]);
    }

    public function testManyAreSplitByBytes(): void
    {
        $one = static fn (int $count) => HttpServer::response(200, json_encode([
            'results' => array_fill(0, $count, ['status' => 'queued', 'id' => 'bc86961b', 'nodes' => 1]),
        ]));
        $this->server->answers = [$one(1), $one(2)];
        $message = ['pattern' => ['kind' => 'news'], 'payload' => str_repeat('x', 3_000_000)];
        $small = ['pattern' => ['kind' => 'news'], 'payload' => 1];
        $outcomes = $this->client()->publishMany([$message, $message, $small]);
        self::assertContainsOnlyInstancesOf(PublishResult::class, $outcomes);
        self::assertCount(3, $outcomes);
        self::assertCount(2, $this->server->requests);
    }

    public function testAddressesAndKeysAreChecked(): void
    {
        foreach (['ftp://host/', 'host', 'http:///', 'http://host/?a=b'] as $url) {
            try {
                new ApiClient($url);
                self::fail("$url is not the address of an API");
            } catch (\ValueError $error) {
                self::assertStringContainsString('http', $error->getMessage());
            }
        }
        $this->expectException(\ValueError::class);
        new ApiClient('http://host/', key: "a\r\nb: c");
    }
}

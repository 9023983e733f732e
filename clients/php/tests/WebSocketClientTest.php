<?php

declare(strict_types=1);

namespace Realizehit\Tests;

use PHPUnit\Framework\TestCase;
use Psr\Log\AbstractLogger;
use Realizehit\Exception\ClientClosedException;
use Realizehit\Exception\DisconnectedException;
use Realizehit\Exception\ForbiddenException;
use Realizehit\Exception\NotAuthenticatedException;
use Realizehit\Exception\RealizehitException;
use Realizehit\Exception\ResponseTimeoutException;
use Realizehit\Exception\TokenException;
use Realizehit\Exception\UnavailableException;
use Realizehit\Gap;
use Realizehit\Message;
use Realizehit\Subscription;
use Realizehit\SubscriptionState;
use Realizehit\Tests\Support\WebSocketServer;
use Realizehit\WebSocketClient;

final class WebSocketClientTest extends TestCase
{
    private WebSocketServer $server;
    private ?WebSocketClient $client = null;

    protected function setUp(): void
    {
        $this->server = new WebSocketServer();
    }

    protected function tearDown(): void
    {
        $this->client?->close();
        $this->server->stop();
    }

    private function client(mixed ...$options): WebSocketClient
    {
        $url = "ws://127.0.0.1:{$this->server->port}/ws";
        $options += ['backoffBase' => 0.01, 'proxy' => ''];
        return $this->client = new WebSocketClient($url, ...$options, waiter: $this->server);
    }

    /** Work until something holds; fail if it does not within five seconds. */
    private function until(\Closure $condition): void
    {
        self::assertTrue($this->client->waitUntil($condition, 5.0), 'it did not come within 5 s');
    }

    public function testSubscribesAndReads(): void
    {
        $subscription = $this->client()->subscribe(['kind' => 'news', 'n' => 3]);
        self::assertSame(SubscriptionState::Subscribed, $subscription->state());
        self::assertSame(['kind' => 'news', 'n' => 3], $this->server->actions[0]['pat']);
        self::assertSame($subscription->pattern()->id, $subscription->id());
        $this->server->send("{$subscription->id()}?{\"title\": \"what?\"}");
        $this->server->send("{$subscription->id()}?2");
        $texts = [];
        foreach ($subscription->messages() as $message) {
            $texts[] = $message->text;
            self::assertSame(['kind' => 'news', 'n' => '3'], $message->pattern());
            if (count($texts) === 2) {
                break;
            }
        }
        self::assertSame(['{"title": "what?"}', '2'], $texts);
        self::assertNull($subscription->next(0.02));
    }

    public function testQueuedMessagesGoToALaterCallback(): void
    {
        $subscription = $this->client()->subscribe(['kind' => 'news']);
        $this->server->send('bc86961b?1');
        $this->client->poll(0.05);
        $texts = [];
        $subscription->on('message', static function (Message $message) use (&$texts): void {
            $texts[] = $message->text;
        });
        self::assertSame(['1'], $texts);
        $this->server->send('bc86961b?2');
        $this->until(static function () use (&$texts): bool {
            return $texts === ['1', '2'];
        });
        $this->expectException(\LogicException::class);
        $subscription->next();
    }

    public function testCallbackMaySubscribeAndClose(): void
    {
        $inner = null;
        $this->client()->subscribe(['kind' => 'news'], function () use (&$inner): void {
            $inner = $this->client->subscribe(['kind' => 'sport'], fn () => $this->client->close());
            $this->server->send("{$inner->id()}?1");
        });
        $this->server->send('bc86961b?1');
        $this->client->run();
        self::assertInstanceOf(Subscription::class, $inner);
        self::assertTrue($this->client->isClosed());
        $this->expectException(ClientClosedException::class);
        $this->client->subscribe(['kind' => 'news']);
    }

    public function testOrderHoldsWhereACallbackWaits(): void
    {
        $texts = [];
        $this->client()->subscribe(['kind' => 'news'], function (Message $message) use (&$texts): void {
            $texts[] = $message->text;
            if ($message->text === '1') {
                $this->server->send('bc86961b?4');
                $this->client->subscribe(['kind' => 'sport']);
            }
        });
        $frames = array_map(static fn (int $n): string => WebSocketServer::frame(0x81, "bc86961b?$n"), [1, 2, 3]);
        $this->server->raw(implode('', $frames));
        $this->until(static function () use (&$texts): bool {
            return count($texts) === 4;
        });
        self::assertSame(['1', '2', '3', '4'], $texts);
    }

    public function testCallbackOfALostConnectionMayClose(): void
    {
        $states = [];
        $client = $this->client();
        $client->subscribe(['kind' => 'news'], on: ['subscribing' => function () use (&$states): void {
            $states[] = $this->server->accepted;
            if (count($states) === 2) {
                $this->client->close();
            }
        }]);
        $other = $client->subscribe(['kind' => 'sport']);
        $this->server->cut();
        $client->run();
        self::assertSame(SubscriptionState::Unsubscribed, $other->state());
        self::assertSame(1, $this->server->accepted);
    }

    public function testCallbackThatThrowsGoesToTheLogAndNoTokenDoes(): void
    {
        $logger = new class extends AbstractLogger {
            /** @var list<string> */
            public array $lines = [];

            public function log($level, $message, array $context = []): void
            {
                $this->lines[] = "$level $message " . json_encode($context);
            }
        };
        $client = $this->client(token: 'secret-token', logger: $logger);
        $count = 0;
        $client->subscribe(['kind' => 'news'], static function () use (&$count): void {
            $count++;
            throw new \RuntimeException('as the test says');
        });
        $this->server->send('bc86961b?1');
        $this->server->send('bc86961b?2');
        $this->until(static function () use (&$count): bool {
            return $count === 2;
        });
        $text = implode("\n", $logger->lines);
        self::assertSame(2, substr_count($text, 'A callback of the event'));
        self::assertStringNotContainsString('secret', $text);
        self::assertStringContainsString("\r\nAuthorization: Bearer secret-token", $this->server->requests[0]);
    }

    public function testFullQueueDropsTheOldestAndTellsAGap(): void
    {
        $gaps = [];
        $client = $this->client(queue: 3);
        $subscription = $client->subscribe(['kind' => 'news'], on: ['gap' => static function (Gap $gap) use (&$gaps): void {
            $gaps[] = $gap;
        }]);
        foreach (range(1, 5) as $number) {
            $this->server->send("bc86961b?$number");
        }
        $this->until(static function () use (&$gaps): bool {
            return $gaps !== [];
        });
        self::assertSame(2, array_sum(array_map(static fn (Gap $gap): int => $gap->dropped, $gaps)));
        self::assertSame(2, $subscription->dropped());
        self::assertSame('3', $subscription->next()->text);
    }

    public function testFastReaderGetsMoreThanItsQueueHolds(): void
    {
        $client = $this->client(queue: 10);
        $subscription = $client->subscribe(['kind' => 'news']);
        $frames = array_map(static fn (int $n): string => WebSocketServer::frame(0x81, "bc86961b?$n"), range(1, 2000));
        $this->server->raw(implode('', $frames) . WebSocketServer::frame(0x88, pack('n', 4000)));
        for ($n = 1; $n <= 2000; $n++) {
            self::assertSame((string) $n, $subscription->next(5.0)->text);
        }
        self::assertSame(0, $subscription->dropped());
        $this->until(fn (): bool => $this->server->accepted === 2);
    }

    public function testSlowReaderLosesTheOldest(): void
    {
        $client = $this->client(queue: 10);
        $subscription = $client->subscribe(['kind' => 'news']);
        $frames = array_map(static fn (int $n): string => WebSocketServer::frame(0x81, "bc86961b?$n"), range(1, 100));
        $this->server->raw(implode('', $frames));
        self::assertSame('1', $subscription->next(5.0)->text);
        usleep(30_000); // the program works
        self::assertSame('91', $subscription->next(5.0)->text);
        self::assertSame(89, $subscription->dropped());
    }

    public function testReturnsAndTellsAGap(): void
    {
        $events = [];
        $client = $this->client();
        $note = static function (string $name) use (&$events): \Closure {
            return static function (mixed ...$values) use ($name, &$events): void {
                $events[] = $name;
            };
        };
        foreach (['connected', 'disconnected', 'gap', 'error', 'ended'] as $event) {
            $client->on($event, $note("client $event"));
        }
        $subscription = $client->subscribe(
            ['kind' => 'news'],
            on: array_combine(['subscribing', 'subscribed', 'gap'], array_map($note, ['subscribing', 'subscribed', 'gap'])),
        );
        $this->server->send('bc86961b?1');
        self::assertSame('1', $subscription->next(5.0)->text);
        $this->server->cut();
        $this->until(static function () use (&$events): bool {
            return in_array('client gap', $events, true);
        });
        self::assertSame([
            'client connected', 'subscribing', 'subscribed',
            'subscribing', 'client disconnected', 'client connected', 'subscribed', 'gap', 'client gap',
        ], $events);
        self::assertSame([2, 2], [$this->server->accepted, count($this->server->actions)]);
        $this->server->send('bc86961b?2');
        self::assertSame('2', $subscription->next(5.0)->text);
    }

    public function testResumesWithPositions(): void
    {
        $told = [];
        $client = $this->client();
        $this->server->answers = [['ret' => 'bc86961b', 'at' => 'k3f09a2c.17']];
        $subscription = $client->subscribe(['kind' => 'news'], offsets: true, on: [
            'recovered' => static function () use (&$told): void {
                $told[] = 'recovered';
            },
            'gap' => static function () use (&$told): void {
                $told[] = 'gap';
            },
        ]);
        self::assertTrue($this->server->actions[0]['offsets']);
        $this->server->send('bc86961b@o=18?"a"');
        self::assertSame('k3f09a2c.18', $subscription->next(5.0)->position);
        $this->server->answers = [['ret' => 'bc86961b', 'at' => 'k3f09a2c.18', 'recovered' => true]];
        $this->server->afterAction = fn () => $this->server->send('bc86961b@o=19?"b"');
        $this->server->cut();
        self::assertSame('k3f09a2c.19', $subscription->next(5.0)->position);
        self::assertSame('k3f09a2c.18', $this->server->actions[1]['since']);
        self::assertSame(['recovered'], $told);
        // A server that does not recover, or knows nothing of history.
        $this->server->afterAction = null;
        $answers = [['ret' => 'bc86961b', 'at' => 'zzzzzzzz.4', 'recovered' => false], ['ret' => 'bc86961b']];
        foreach ($answers as $number => $answer) {
            $this->server->answers = [$answer];
            $this->server->cut();
            $this->until(static function () use (&$told, $number): bool {
                return count($told) === $number + 2;
            });
        }
        self::assertSame(['recovered', 'gap', 'gap'], $told);
        self::assertSame('zzzzzzzz.4', $this->server->actions[3]['since']);
    }

    public function testSecondSubscriptionCannotBeginElsewhere(): void
    {
        $client = $this->client();
        $client->subscribe(['kind' => 'news']);
        $this->expectException(RealizehitException::class);
        $this->expectExceptionMessage('only its first subscription');
        $client->subscribe(['kind' => 'news'], last: 5);
    }

    public function testUnsubscribesWithTheLastSubscription(): void
    {
        $client = $this->client();
        $one = $client->subscribe(['kind' => 'news']);
        $other = $client->subscribe(['kind' => 'news']);
        $one->unsubscribe();
        self::assertSame(['sub'], array_column($this->server->actions, 'act'));
        $other->unsubscribe();
        self::assertSame(['sub', 'unsub'], array_column($this->server->actions, 'act'));
        self::assertSame([], iterator_to_array($other->messages()));
        self::assertSame(SubscriptionState::Unsubscribed, $client->subscribe(['kind' => 'sport']) ? $one->state() : null);
    }

    public function testRefusedSubscription(): void
    {
        $client = $this->client(responseTimeout: 0.1);
        $this->server->answers = [['err' => 'not yours', 'code' => 'forbidden'], null];
        try {
            $client->subscribe(['kind' => 'news']);
            self::fail('it was refused');
        } catch (ForbiddenException $error) {
            self::assertSame(['forbidden', 'not yours', null], [$error->errorCode, $error->getMessage(), $error->status]);
        }
        try {
            $client->subscribe(['kind' => 'news']);
            self::fail('it was not answered');
        } catch (ResponseTimeoutException) {
            self::assertSame(SubscriptionState::Subscribed, $client->subscribe(['kind' => 'news'])->state());
        }
    }

    public function testEndedByTheServer(): void
    {
        $subscription = $this->client()->subscribe(['kind' => 'news']);
        $this->server->send('bc86961b?1');
        $this->server->send('{"evt":"unsubscribed","ids":["bc86961b"],"code":"forbidden","reason":"no longer"}');
        self::assertSame('1', $subscription->next(5.0)->text);
        $this->expectException(ForbiddenException::class);
        $subscription->next(5.0);
    }

    /** @return iterable<string, array{string, int}> bytes of the server, and the code that the client closes with */
    public function violations(): iterable
    {
        yield 'reserved bits' => ["\xf1\x01a", 1002];
        yield 'not UTF-8' => ["\x81\x02\xff\xfe", 1007];
        yield 'too big' => ["\x81\x7e\x20\x00", 1009];
        yield 'close of one byte' => ["\x88\x01\x03", 1002];
        foreach ([0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] as $code) {
            yield "7.9 close code $code" => [WebSocketServer::frame(0x88, pack('n', $code)), 1002];
        }
        yield '7.5 reason that is not UTF-8' => [WebSocketServer::frame(0x88, pack('n', 1000) . "\xff"), 1007];
    }

    /** @dataProvider violations */
    public function testViolationCostsTheConnection(string $bytes, int $code): void
    {
        $lost = null;
        $client = $this->client(maxMessage: 4096);
        $client->on('disconnected', static function (RealizehitException $error) use (&$lost): void {
            $lost = $error;
        });
        $subscription = $client->subscribe(['kind' => 'news']);
        $this->server->raw($bytes);
        $this->until(fn (): bool => $this->server->accepted === 2 && $subscription->state() === SubscriptionState::Subscribed);
        self::assertInstanceOf(DisconnectedException::class, $lost);
        self::assertNull($lost->status);
        self::assertSame([[8, pack('n', $code)]], $this->server->controls);
    }

    /** @return iterable<string, array{string, int|null}> */
    public function closes(): iterable
    {
        foreach ([1000, 1001, 1002, 1003, 1007, 1011, 1012, 1014, 3000, 3999, 4000, 4499] as $code) {
            yield "7.7 close code $code" => [pack('n', $code) . 'reason', $code];
        }
        yield '7.3 close without a code' => ['', null];
        yield '7.3 close with the longest reason' => [pack('n', 1000) . str_repeat('*', 123), 1000];
    }

    /** @dataProvider closes */
    public function testCloseIsAnsweredAndTheClientReturns(string $payload, ?int $code): void
    {
        $lost = null;
        $client = $this->client()->on('disconnected', static function (RealizehitException $error) use (&$lost): void {
            $lost = $error;
        });
        $client->connect();
        $this->server->raw(WebSocketServer::frame(0x88, $payload) . WebSocketServer::frame(0x81, 'ignored'));
        $this->until(fn (): bool => $this->server->accepted === 2 && $client->isConnected());
        self::assertSame($code, $lost->status);
        self::assertSame([[8, $code === null ? '' : pack('n', $code)]], $this->server->controls);
    }

    public function testPingIsAnsweredWithItsPayload(): void
    {
        $this->client()->subscribe(['kind' => 'news']);
        $this->server->raw(WebSocketServer::frame(0x89, 'payload'));
        $this->until(fn (): bool => $this->server->controls !== []);
        self::assertSame([[0xA, 'payload']], $this->server->controls);
    }

    public function testCloseIsSaid(): void
    {
        $this->client()->connect();
        $this->client->close();
        self::assertSame([[8, pack('n', 1000)]], $this->server->controls);
    }

    public function testEndsAfter4502(): void
    {
        $ended = null;
        $client = $this->client();
        $client->on('ended', static function (RealizehitException $error) use (&$ended): void {
            $ended = $error;
        });
        $subscription = $client->subscribe(['kind' => 'news']);
        $this->server->close(4502, 'rate-limited');
        try {
            $subscription->next(5.0);
            self::fail('the client has ended');
        } catch (DisconnectedException $error) {
            self::assertSame(4502, $error->status);
            self::assertSame($ended, $error);
        }
        self::assertTrue($client->isClosed());
        $this->expectExceptionObject($error);
        $client->run();
    }

    public function testFreshTokens(): void
    {
        $tokens = ['one', 'two', 'three', 'four'];
        $client = $this->client(token: static function () use (&$tokens): string {
            return array_shift($tokens) ?? throw new \RuntimeException('none left');
        });
        $subscription = $client->subscribe(['kind' => 'news']);
        $this->server->send('{"evt":"expiring","seconds":0.1}');
        $this->until(fn (): bool => count($this->server->actions) === 2);
        self::assertSame(['auth', 'two'], [$this->server->actions[1]['act'], $this->server->actions[1]['token']]);
        $this->server->close(4501, 'expired');
        $this->until(fn (): bool => $this->server->accepted === 2 && $subscription->state() === SubscriptionState::Subscribed);
        self::assertStringContainsString('Authorization: Bearer three', $this->server->requests[1]);
    }

    public function testFixedTokenEndsWith4501(): void
    {
        $subscription = $this->client(token: 'one')->subscribe(['kind' => 'news']);
        $this->server->close(4501, 'expired');
        $this->expectException(NotAuthenticatedException::class);
        $subscription->next(5.0);
    }

    public function testTokenFunctionThatFailsAtFirst(): void
    {
        $client = $this->client(token: static fn (): string => "a\nb");
        $this->expectException(TokenException::class);
        $client->connect();
    }

    public function testFirstAttemptIsNotRepeatedAndMayBeMadeAgain(): void
    {
        $client = $this->client();
        $body = '{"code": "unavailable", "detail": "going away"}';
        $this->server->handshakes = ["HTTP/1.1 503 Away\r\nContent-Length: " . strlen($body) . "\r\n\r\n$body"];
        try {
            $client->connect();
            self::fail('it was refused');
        } catch (UnavailableException $error) {
            self::assertSame(['going away', 'unavailable', 503], [$error->getMessage(), $error->errorCode, $error->status]);
        }
        $client->connect();
        self::assertTrue($client->isConnected());
    }

    /** @return iterable<string, array{string, string}> */
    public function badHandshakes(): iterable
    {
        $accepted = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
        yield 'page' => ["HTTP/1.1 200 OK\r\n\r\n<h1>", 'answered the handshake with 200'];
        yield 'garbage' => ["\x00\xff\r\n\r\n", 'is not HTTP'];
        yield 'cut' => ["HTTP/1.1 101 Sw", 'the connection ended in the handshake'];
        yield 'wrong accept' => ["{$accepted}Sec-WebSocket-Accept: AAAA\r\n\r\n", 'wrong Sec-WebSocket-Accept'];
        yield 'no upgrade' => ["HTTP/1.1 101 S\r\nConnection: Upgrade\r\n\r\n", 'no Upgrade: websocket'];
        yield 'no connection' => ["HTTP/1.1 101 S\r\nUpgrade: websocket\r\n\r\n", 'no Connection: Upgrade'];
    }

    /** @dataProvider badHandshakes */
    public function testBadHandshakes(string $response, string $text): void
    {
        $this->server->handshakes = [$response];
        $this->expectException(RealizehitException::class);
        $this->expectExceptionMessage($text);
        $this->client()->connect();
    }

    public function testSilentConnectionIsGivenUp(): void
    {
        $client = $this->client(heartbeat: 0.1);
        $client->connect();
        $this->until(fn (): bool => $this->server->accepted === 2); // the server of the tests answers no ping
        self::assertSame([0x9, ''], $this->server->controls[0]);
    }

    public function testArgumentsAreChecked(): void
    {
        $wrong = [
            ['http://host/'], ['ws://'], ['ws://user:password@host/'], ['ws://host/#x'], ['ws://host/', 'token' => "a\nb"],
            ['ws://host/', 'queue' => 0], ['ws://host/', 'token' => 't', 'headers' => ['authorization' => 'x']],
        ];
        foreach ($wrong as $arguments) {
            try {
                new WebSocketClient(...$arguments);
                self::fail(json_encode($arguments) . ' was accepted');
            } catch (\ValueError $error) {
                self::assertStringNotContainsString('password', $error->getMessage());
            }
        }
        $this->expectException(\ValueError::class);
        $this->expectExceptionMessage('there is no event "message"');
        (new WebSocketClient('ws://host/'))->on('message', static fn () => null);
    }
}

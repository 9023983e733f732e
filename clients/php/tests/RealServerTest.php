<?php

declare(strict_types=1);

namespace Realizehit\Tests;

use PHPUnit\Framework\TestCase;
use Realizehit\ApiClient;
use Realizehit\WebSocketClient;

/**
 * Both clients with a server, whose command `REALIZEHIT_SERVER` names.
 */
final class RealServerTest extends TestCase
{
    /** @var resource|null */
    private static $process = null;
    private static int $port = 0;

    public static function setUpBeforeClass(): void
    {
        $command = getenv('REALIZEHIT_SERVER');
        if ($command === false || $command === '') {
            return;
        }
        $probe = stream_socket_server('tcp://127.0.0.1:0');
        self::$port = (int) substr(strrchr(stream_socket_get_name($probe, false), ':'), 1);
        fclose($probe);
        $arguments = [$command, '--host', '127.0.0.1', '--port', (string) self::$port];
        $log = tempnam(sys_get_temp_dir(), 'realizehit');
        self::$process = proc_open($arguments, [['file', '/dev/null', 'r'], ['file', $log, 'w'], ['file', $log, 'w']], $pipes);
        for ($end = microtime(true) + 30; microtime(true) < $end; usleep(50_000)) {
            if (@file_get_contents('http://127.0.0.1:' . self::$port . '/readyz') !== false) {
                unlink($log);
                return;
            }
        }
        throw new \RuntimeException('the server did not start: ' . file_get_contents($log));
    }

    public static function tearDownAfterClass(): void
    {
        if (self::$process !== null) {
            proc_terminate(self::$process);
            proc_close(self::$process);
            self::$process = null;
        }
    }

    protected function setUp(): void
    {
        if (self::$process === null) {
            self::markTestSkipped('REALIZEHIT_SERVER names no server');
        }
    }

    public function testPublishesAndReceives(): void
    {
        $client = new WebSocketClient('ws://127.0.0.1:' . self::$port . '/ws', proxy: '');
        $api = new ApiClient('http://127.0.0.1:' . self::$port . '/');
        $exact = $client->subscribe(['kind' => 'news', 'city' => 'São Paulo']);
        $any = $client->subscribe(['kind' => 'news', 'city' => '*']);
        $result = $api->publish(['city' => 'São Paulo', 'kind' => 'news'], ['n' => 1.0, 'text' => '😀?'], key: 'order-17');
        self::assertSame($exact->id(), $result->id);
        self::assertSame(2, $result->nodes); // the broker counts a node for each channel that it has of the publication
        foreach ([$exact, $any] as $subscription) {
            $message = $subscription->next(10.0);
            self::assertSame('{"n":1.0,"text":"😀?"}', $message->text);
            self::assertSame(['city' => 'São Paulo', 'kind' => 'news'], $message->pattern());
        }
        $client->close();
    }

    public function testManyInOrder(): void
    {
        $client = new WebSocketClient('ws://127.0.0.1:' . self::$port . '/ws', queue: 20_000, proxy: '');
        $api = new ApiClient('http://127.0.0.1:' . self::$port . '/');
        $subscription = $client->subscribe(['kind' => 'many'], since: 'k3f09a2c.17'); // no server keeps history yet
        $messages = array_map(static fn (int $n): array => ['pattern' => ['kind' => 'many'], 'payload' => $n], range(0, 10_499));
        foreach ($api->publishMany($messages) as $outcome) {
            self::assertSame($subscription->id(), $outcome->id);
        }
        for ($n = 0; $n < 10_500; $n++) {
            self::assertSame((string) $n, $subscription->next(10.0)->text);
        }
        $subscription->unsubscribe();
        $client->close();
    }
}

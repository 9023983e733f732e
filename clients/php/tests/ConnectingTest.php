<?php

declare(strict_types=1);

namespace Realizehit\Tests;

use PHPUnit\Framework\TestCase;
use Realizehit\Exception\UnavailableException;
use Realizehit\Tests\Support\WebSocketServer;
use Realizehit\WebSocket\Address;
use Realizehit\WebSocket\Proxy;
use Realizehit\WebSocketClient;

/**
 * How a client reaches a server: names, TLS, proxies.
 */
final class ConnectingTest extends TestCase
{
    private static string $directory = '';

    private ?WebSocketServer $server = null;
    private ?WebSocketClient $client = null;

    public static function setUpBeforeClass(): void
    {
        self::$directory = sys_get_temp_dir() . '/realizehit-' . bin2hex(random_bytes(6));
        mkdir(self::$directory);
        file_put_contents(self::$directory . '/openssl.cnf', <<<'END'
            [req]
            distinguished_name = name
            [name]
            [server]
            subjectAltName = DNS:localhost
            basicConstraints = CA:TRUE
            END);
        foreach (['server', 'other'] as $name) {
            $options = [
                'config' => self::$directory . '/openssl.cnf', 'x509_extensions' => 'server', 'digest_alg' => 'sha256',
                'private_key_bits' => 2048,
            ];
            $key = openssl_pkey_new($options);
            $request = openssl_csr_new(['commonName' => "the $name of the tests"], $key, $options);
            openssl_x509_export(openssl_csr_sign($request, null, $key, 1, $options), $certificate);
            openssl_pkey_export($key, $text, null, $options);
            file_put_contents(self::$directory . "/$name.pem", $certificate . $text);
        }
    }

    public static function tearDownAfterClass(): void
    {
        array_map(unlink(...), glob(self::$directory . '/*'));
        rmdir(self::$directory);
    }

    protected function tearDown(): void
    {
        $this->client?->close();
        $this->server?->stop();
        putenv('http_proxy');
        putenv('no_proxy');
    }

    private function client(string $url, mixed ...$options): WebSocketClient
    {
        return $this->client = new WebSocketClient($url, ...$options + ['proxy' => ''], waiter: $this->server);
    }

    private static function file(string $name): string
    {
        return self::$directory . "/$name.pem";
    }

    public function testTls(): void
    {
        $this->server = new WebSocketServer(['local_cert' => self::file('server')]);
        $client = $this->client("wss://localhost:{$this->server->port}/ws", tls: ['cafile' => self::file('server')]);
        $subscription = $client->subscribe(['kind' => 'news']);
        $text = json_encode(str_repeat('x', 300_000));
        $this->server->send("bc86961b?$text");
        self::assertSame($text, $subscription->next(5.0)->text);
        self::assertNull($subscription->next(0.05));
        $this->server->send('bc86961b?2');
        self::assertSame('2', $subscription->next(5.0)->text);
    }

    /** @return iterable<string, array{string, string}> */
    public function untrusted(): iterable
    {
        yield 'another authority' => ['localhost', 'other'];
        yield 'another name' => ['127.0.0.1', 'server'];
    }

    /** @dataProvider untrusted */
    public function testTlsIsVerified(string $host, string $authority): void
    {
        $this->server = new WebSocketServer(['local_cert' => self::file('server')]);
        $client = $this->client("wss://$host:{$this->server->port}/ws", tls: ['cafile' => self::file($authority)]);
        try {
            $client->connect();
            self::fail('the certificate is not trusted');
        } catch (UnavailableException $error) {
            self::assertStringContainsString("TLS with $host:{$this->server->port} failed: ", $error->getMessage());
        }
        self::assertSame([], $this->server->requests);
    }

    public function testEveryAddressOfANameIsTried(): void
    {
        $this->server = new WebSocketServer(); // it listens on 127.0.0.1 only
        $client = $this->client("ws://localhost:{$this->server->port}/ws");
        $client->connect();
        self::assertStringContainsString("Host: localhost:{$this->server->port}\r\n", $this->server->requests[0]);
    }

    public function testNobodyThereAndUnknownHost(): void
    {
        $this->server = new WebSocketServer();
        foreach (['127.0.0.1:1', 'no-such-host.invalid:80'] as $where) {
            try {
                $this->client("ws://$where/ws")->connect();
                self::fail("nobody is at $where");
            } catch (UnavailableException $error) {
                self::assertSame('unavailable', $error->errorCode);
                self::assertStringContainsString('cannot connect to ' . explode(':', $where)[0], $error->getMessage());
            }
        }
    }

    public function testHandshakeThatTakesTooLong(): void
    {
        $this->server = new WebSocketServer();
        $this->server->accepts = false;
        $this->expectException(UnavailableException::class);
        $this->expectExceptionMessage('did not open the connection in time');
        $this->client("ws://127.0.0.1:{$this->server->port}/ws", openTimeout: 0.1)->connect();
    }

    public function testProxyOfTheEnvironment(): void
    {
        $this->server = new WebSocketServer();
        $this->server->isProxy = true;
        putenv("http_proxy=http://user:pass%20word@127.0.0.1:{$this->server->port}");
        $client = $this->client('ws://realizehit.test/ws', proxy: null);
        $client->connect();
        self::assertSame(1, $this->server->accepted);
        self::assertStringStartsWith("CONNECT realizehit.test:80 HTTP/1.1\r\n", $this->server->requests[0]);
        $credentials = base64_encode('user:pass word');
        self::assertStringContainsString("Proxy-Authorization: Basic $credentials", $this->server->requests[0]);
        self::assertStringStartsWith("GET /ws HTTP/1.1\r\nHost: realizehit.test\r\n", $this->server->requests[1]);
        self::assertStringNotContainsString('Proxy-Authorization', $this->server->requests[1]);
    }

    public function testProxyThatRefuses(): void
    {
        $this->server = new WebSocketServer();
        $this->server->handshakes = ["HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"];
        $this->expectException(UnavailableException::class);
        $this->expectExceptionMessage('the proxy answered CONNECT with 407');
        $this->client('ws://realizehit.test/ws', proxy: "http://127.0.0.1:{$this->server->port}")->connect();
    }

    public function testExceptionsOfTheProxy(): void
    {
        putenv('http_proxy=proxy:3128');
        self::assertSame('proxy', Proxy::fromEnvironment(new Address('ws://realizehit.test/'))?->host);
        self::assertNull(Proxy::fromEnvironment(new Address('wss://realizehit.test/')));
        foreach (['realizehit.test', '.test', 'other,test', '*'] as $exceptions) {
            putenv("no_proxy=$exceptions");
            self::assertNull(Proxy::fromEnvironment(new Address('ws://realizehit.test/')), $exceptions);
        }
        putenv('no_proxy=hit.test');
        self::assertNotNull(Proxy::fromEnvironment(new Address('ws://realizehit.test/')));
    }

    public function testAddresses(): void
    {
        $address = new Address('wss://[::1]:8443/a/ws?x=1');
        self::assertSame(
            [true, '::1', 8443, '/a/ws?x=1', '[::1]:8443'],
            [$address->isSecure, $address->host, $address->port, $address->target, $address->authority],
        );
        self::assertSame('host', (new Address('wss://host:443'))->authority);
    }
}

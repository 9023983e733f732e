<?php

declare(strict_types=1);

namespace Realizehit\Tests\Support;

use Realizehit\Loop\Waiter;

/**
 * A server in the process of the test: whenever the client waits, it accepts, reads, and does what the test says.
 */
abstract class TestServer implements Waiter
{
    private const PAUSE = 5000; // µs that one wait lasts at most

    public readonly int $port;
    /** How many connections it has accepted. */
    public int $accepted = 0;
    /** The stream of the latest connection. @var resource|null */
    public $stream = null;
    /** What came over the latest connection and has not been taken. */
    public string $input = '';
    /** Whether it accepts connections. */
    public bool $accepts = true;

    private bool $isSecured = true;
    /** @var resource */
    private $listener;

    /**
     * @param array<string, mixed> $tls options of the server's TLS; empty for none.
     */
    public function __construct(private readonly array $tls = [])
    {
        $context = stream_context_create(['ssl' => $tls, 'socket' => ['tcp_nodelay' => true]]);
        $flags = STREAM_SERVER_BIND | STREAM_SERVER_LISTEN;
        $this->listener = stream_socket_server('tcp://127.0.0.1:0', $code, $text, $flags, $context);
        stream_set_blocking($this->listener, false);
        $this->port = (int) substr(strrchr(stream_socket_get_name($this->listener, false), ':'), 1);
    }

    public function wait(array $read, array $write, float $seconds): void
    {
        $this->step();
        $except = [];
        $pause = (int) min($seconds * 1e6, self::PAUSE);
        if ($read === [] && $write === []) {
            usleep($pause);
        } else {
            stream_select($read, $write, $except, 0, $pause);
        }
        $this->step();
    }

    /** Send bytes as they are. */
    public function raw(string $bytes): void
    {
        @fwrite($this->stream, $bytes); // the client may have closed it
    }

    /** End the connection. */
    public function cut(): void
    {
        if ($this->stream !== null) {
            fclose($this->stream);
        }
        $this->stream = null;
    }

    public function stop(): void
    {
        $this->cut();
        fclose($this->listener);
    }

    /** Act on what came. */
    abstract protected function read(): void;

    /** A connection was accepted. */
    protected function begin(): void
    {
    }

    private function step(): void
    {
        $this->receive(); // what the old connection sent before the client made another one
        $stream = $this->accepts ? @stream_socket_accept($this->listener, 0) : false;
        if ($stream !== false) {
            stream_set_blocking($stream, false);
            $this->stream = $stream;
            $this->input = '';
            $this->accepted++;
            $this->isSecured = $this->tls === [];
            $this->begin();
            $this->receive();
        }
    }

    private function receive(): void
    {
        if ($this->stream !== null && !$this->isSecured) {
            $done = @stream_socket_enable_crypto($this->stream, true, STREAM_CRYPTO_METHOD_TLS_SERVER);
            if ($done === false) {
                $this->cut();
            }
            $this->isSecured = $done === true;
        }
        if ($this->stream === null || !$this->isSecured) {
            return;
        }
        while (is_string($bytes = @fread($this->stream, 65536)) && $bytes !== '') {
            $this->input .= $bytes;
        }
        if ($this->input !== '') {
            $this->read();
        }
    }
}

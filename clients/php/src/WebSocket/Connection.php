<?php

declare(strict_types=1);

namespace Realizehit\WebSocket;

use Realizehit\Exception\DisconnectedException;
use Realizehit\Exception\RealizehitException;
use Realizehit\Exception\UnavailableException;

/**
 * One WebSocket connection, from connecting to its end. It never blocks, apart from the look-up of the host's name: `advance`
 * does what can be done now, and `reads`, `writes` and `deadline` say what to wait for.
 *
 * @internal
 */
final class Connection
{
    private const CONNECTING = 'connecting';
    private const PROXY = 'proxy';
    private const TLS = 'tls';
    private const HANDSHAKE = 'handshake';
    private const OPEN = 'open';
    private const CLOSING = 'closing';
    private const CLOSED = 'closed';

    private const CHUNK = 65536;
    /** Reads of one turn, so that a fast server does not hold up everything else. */
    private const MAX_READS = 16;
    private const CLOSE_TIMEOUT = 1.0;

    /** The close code of the server; null if it sent none. */
    public ?int $closeCode = null;
    public string $closeReason = '';
    /** Why the connection ended. */
    public ?RealizehitException $error = null;
    /** When something last came. */
    public float $heardAt;
    /** Whether a turn ended before everything was read. */
    public bool $hasMore = false;
    /** Whether the handshake succeeded. */
    public bool $wasOpened = false;

    private string $state = self::CONNECTING;
    /** @var resource|null */
    private $stream = null;
    /** @var list<string> addresses that are still to be tried */
    private array $addresses;
    private string $output = '';
    private string $input = '';
    private ?float $deadline;
    private readonly FrameParser $parser;
    private readonly Handshake $handshake;

    /**
     * @param array<string, string> $headers of the handshake.
     * @param array<string, mixed> $tls context options of TLS, as PHP has them.
     * @param float $openTimeout seconds for connecting and the handshake.
     */
    public function __construct(
        private readonly Address $address,
        array $headers,
        private readonly array $tls,
        private readonly ?Proxy $proxy,
        float $openTimeout,
        int $maxMessage,
    ) {
        $this->heardAt = self::now();
        $this->deadline = $this->heardAt + $openTimeout;
        $this->parser = new FrameParser($maxMessage);
        $this->handshake = new Handshake($address, $headers);
        $this->addresses = Resolver::addresses($proxy->host ?? $address->host);
        $this->tryNext();
    }

    /** Seconds of a clock that only goes forward. */
    public static function now(): float
    {
        return hrtime(true) / 1e9;
    }

    public function isOpen(): bool
    {
        return $this->state === self::OPEN;
    }

    public function isClosed(): bool
    {
        return $this->state === self::CLOSED;
    }

    /** @return list<resource> the streams that it waits to read from. */
    public function reads(): array
    {
        return $this->stream === null || $this->state === self::CONNECTING ? [] : [$this->stream];
    }

    /** @return list<resource> the streams that it waits to write to. */
    public function writes(): array
    {
        $isWaiting = $this->state === self::CONNECTING || ($this->output !== '' && $this->state !== self::TLS);
        return $this->stream !== null && $isWaiting ? [$this->stream] : [];
    }

    /** When `advance` must be called at the latest; null if there is no such time. */
    public function deadline(): ?float
    {
        return $this->deadline;
    }

    /** Send a text message; it goes out with the next `flush`. */
    public function send(string $text): void
    {
        if ($this->state === self::OPEN) {
            $this->output .= Frame::encode(Frame::TEXT, $text);
        }
    }

    public function ping(): void
    {
        if ($this->state === self::OPEN) {
            $this->output .= Frame::encode(Frame::PING, '');
        }
    }

    /** Write what the socket takes. */
    public function flush(): void
    {
        while ($this->output !== '' && $this->stream !== null) {
            $written = @fwrite($this->stream, $this->output);
            if ($written === false || $written === 0) {
                return; // a lost connection is seen when it is read
            }
            $this->output = substr($this->output, $written);
        }
    }

    /** Begin to close: the server's close frame, or one second, ends the connection. */
    public function close(int $code = 1000, string $reason = ''): void
    {
        if ($this->state !== self::OPEN) {
            $this->end(null);
            return;
        }
        $this->output .= Frame::encode(Frame::CLOSE, Frame::closePayload($code, $reason));
        $this->state = self::CLOSING;
        $this->deadline = self::now() + self::CLOSE_TIMEOUT;
        $this->flush();
    }

    /** Give the connection up at once. */
    public function abort(RealizehitException $error): void
    {
        $this->end($error);
    }

    /**
     * Do what can be done without waiting.
     *
     * @return list<string> the text messages that came.
     */
    public function advance(): array
    {
        $messages = [];
        try {
            if ($this->state === self::CONNECTING) {
                $this->checkConnected();
            }
            if ($this->state === self::TLS) {
                $this->startTls();
            }
            if ($this->state === self::PROXY || $this->state === self::HANDSHAKE) {
                $this->flush();
                $messages = $this->readHandshake();
            } elseif ($this->state === self::OPEN || $this->state === self::CLOSING) {
                $messages = $this->readFrames();
                $this->flush();
            }
        } catch (RealizehitException $error) {
            $this->end($error);
        }
        if ($this->deadline !== null && $this->state !== self::CLOSED && self::now() >= $this->deadline) {
            $this->end($this->state === self::CLOSING
                ? null
                : new UnavailableException('the server did not open the connection in time', 'unavailable'));
        }
        return $messages;
    }

    private function tryNext(): void
    {
        $address = array_shift($this->addresses);
        $where = $this->proxy === null ? $this->address->authority : "the proxy {$this->proxy->host}:{$this->proxy->port}";
        if ($address === null) {
            $this->end(new UnavailableException("cannot connect to $where", 'unavailable'));
            return;
        }
        $context = stream_context_create(['ssl' => $this->tls + [
            'peer_name' => $this->address->host,
            'SNI_enabled' => true,
            'verify_peer' => true,
            'verify_peer_name' => true,
            'disable_compression' => true,
        ], 'socket' => ['tcp_nodelay' => true]]);
        $port = $this->proxy->port ?? $this->address->port;
        $flags = STREAM_CLIENT_CONNECT | STREAM_CLIENT_ASYNC_CONNECT;
        $stream = @stream_socket_client("tcp://$address:$port", $code, $text, null, $flags, $context);
        if ($stream === false) {
            $this->tryNext();
            return;
        }
        stream_set_blocking($stream, false);
        stream_set_chunk_size($stream, self::CHUNK);
        $this->stream = $stream;
    }

    private function checkConnected(): void
    {
        if ($this->stream === null) {
            return;
        }
        $read = [];
        $write = [$this->stream];
        $except = [];
        if (@stream_select($read, $write, $except, 0, 0) !== 1) {
            return;
        }
        if (stream_socket_get_name($this->stream, true) === false) {
            fclose($this->stream);
            $this->stream = null;
            $this->tryNext();
            return;
        }
        if ($this->proxy !== null) {
            $this->output = $this->proxy->request($this->address);
            $this->state = self::PROXY;
        } else {
            $this->connected();
        }
    }

    private function connected(): void
    {
        $this->state = $this->address->isSecure ? self::TLS : self::HANDSHAKE;
        if ($this->state === self::HANDSHAKE) {
            $this->output = $this->handshake->request;
        }
    }

    private function startTls(): void
    {
        assert($this->stream !== null);
        $problem = '';
        set_error_handler(static function (int $level, string $text) use (&$problem): bool {
            $problem = $text;
            return true;
        });
        try {
            $done = stream_socket_enable_crypto(
                $this->stream,
                true,
                STREAM_CRYPTO_METHOD_TLSv1_2_CLIENT | STREAM_CRYPTO_METHOD_TLSv1_3_CLIENT,
            );
        } finally {
            restore_error_handler();
        }
        if ($done === false) {
            $text = trim(preg_replace('/\s+/', ' ', str_replace('stream_socket_enable_crypto(): ', '', $problem)) ?? '');
            throw new UnavailableException(trim("TLS with {$this->address->authority} failed: $text", ': '), 'unavailable');
        }
        if ($done === true) {
            $this->state = self::HANDSHAKE;
            $this->output = $this->handshake->request;
        }
    }

    /**
     * @return list<string>
     */
    private function readHandshake(): array
    {
        $isEnd = $this->read();
        if ($this->state === self::PROXY) {
            if (!str_contains($this->input, "\r\n\r\n")) {
                if ($isEnd || strlen($this->input) > Handshake::MAX_RESPONSE) {
                    throw new UnavailableException('the proxy did not answer CONNECT', 'unavailable');
                }
                return [];
            }
            $response = new ResponseHead(strstr($this->input, "\r\n\r\n", true) ?: '');
            if ($response->status === null || intdiv($response->status, 100) !== 2) {
                $answer = $response->status ?? 'what is not HTTP';
                throw new UnavailableException("the proxy answered CONNECT with $answer", 'unavailable');
            }
            $this->input = '';
            $this->connected();
            return $this->advance();
        }
        $rest = $this->handshake->check($this->input, $isEnd);
        if ($rest === null) {
            return [];
        }
        $this->input = '';
        $this->state = self::OPEN;
        $this->wasOpened = true;
        $this->deadline = null;
        return $rest === '' ? [] : $this->take($this->parser->feed($rest));
    }

    /** Read into `input`; return whether the connection has ended. */
    private function read(): bool
    {
        assert($this->stream !== null);
        while (true) {
            $bytes = @fread($this->stream, self::CHUNK);
            if ($bytes === false || $bytes === '') {
                return self::hasEnded($this->stream);
            }
            $this->heardAt = self::now();
            $this->input .= $bytes;
            if (strlen($this->input) > 2 * Handshake::MAX_RESPONSE) {
                return false;
            }
        }
    }

    /**
     * @return list<string>
     */
    private function readFrames(): array
    {
        $messages = [];
        $this->hasMore = false;
        for ($reads = 0; $this->stream !== null; $reads++) {
            if ($reads === self::MAX_READS) {
                $this->hasMore = true;
                break;
            }
            $bytes = @fread($this->stream, self::CHUNK);
            if ($bytes === false || $bytes === '') {
                if (self::hasEnded($this->stream)) {
                    $this->lost();
                }
                break;
            }
            $this->heardAt = self::now();
            $texts = $this->take($this->parser->feed($bytes));
            $messages = $messages === [] ? $texts : array_merge($messages, $texts);
        }
        return $messages;
    }

    /**
     * Act on control frames and return the texts.
     *
     * @param list<string|Frame> $found
     * @return list<string>
     */
    private function take(array $found): array
    {
        if (!$this->parser->hasFrames && $this->parser->failureCode === null) {
            return $found;
        }
        $texts = [];
        foreach ($found as $each) {
            if (is_string($each)) {
                $texts[] = $each;
            } elseif ($each->opcode === Frame::PING) {
                $this->output .= $this->state === self::OPEN ? Frame::encode(Frame::PONG, $each->payload) : '';
            } elseif ($each->opcode === Frame::CLOSE) {
                $this->closedByServer(CloseReason::read($each->payload));
                return $texts;
            }
        }
        if ($this->parser->failureCode !== null) {
            $this->failed($this->parser->failureCode, $this->parser->failure);
        }
        return $texts;
    }

    private function closedByServer(CloseReason $close): void
    {
        if ($close->failureCode !== null) {
            $this->failed($close->failureCode, 'the close frame of the server is malformed');
            return;
        }
        $this->closeCode = $close->code;
        $this->closeReason = $close->reason;
        if ($this->state === self::OPEN) {
            $this->output .= Frame::encode(Frame::CLOSE, $close->code === null ? '' : pack('n', $close->code));
        }
        $this->flush();
        $why = $close->reason === '' ? '' : ": $close->reason";
        $this->end(new DisconnectedException(
            'the server closed the connection' . ($close->code === null ? '' : " with $close->code") . $why,
            '',
            $close->code,
        ));
    }

    /** End the connection because of an error of the server. */
    private function failed(int $code, string $reason): void
    {
        if ($this->state === self::OPEN) {
            $this->output .= Frame::encode(Frame::CLOSE, Frame::closePayload($code, ''));
        }
        $this->flush();
        $this->end(new DisconnectedException("the server broke the protocol: $reason"));
    }

    /**
     * Whether a read found the end of a stream. `feof` would wait for the next byte.
     *
     * @param resource $stream
     */
    private static function hasEnded($stream): bool
    {
        return stream_get_meta_data($stream)['eof'];
    }

    private function lost(): void
    {
        $this->end(new DisconnectedException('the connection was lost'));
    }

    private function end(?RealizehitException $error): void
    {
        if ($this->state === self::CLOSED) {
            return;
        }
        $this->state = self::CLOSED;
        $this->error = $error ?? new DisconnectedException('the connection was closed');
        $this->deadline = null;
        $this->output = '';
        if ($this->stream !== null) {
            @fclose($this->stream);
            $this->stream = null;
        }
    }
}

<?php

declare(strict_types=1);

namespace Realizehit\Tests\Support;

/**
 * A server that speaks the protocol of realizehit, and answers each action unless a test says otherwise.
 */
final class WebSocketServer extends TestServer
{
    /** The heads of the requests, the latest one last. @var list<string> */
    public array $requests = [];
    /** The actions that came, decoded. @var list<array<string, mixed>> */
    public array $actions = [];
    /** Control frames that came: opcode and payload. @var list<array{int, string}> */
    public array $controls = [];
    /** Answers for the next actions, in place of the usual ones: keys of the reply, or null for none. */
    public array $answers = [];
    /** Responses for the next handshakes, in place of the usual one. @var list<string> */
    public array $handshakes = [];
    /** Called after each action. */
    public ?\Closure $afterAction = null;
    /** Whether to act as a proxy first: it answers a CONNECT. */
    public bool $isProxy = false;

    private bool $isOpen = false;

    public function send(string $text): void
    {
        $this->raw(self::frame(0x81, $text));
    }

    public function close(int $code, string $reason = ''): void
    {
        $this->raw(self::frame(0x88, pack('n', $code) . $reason));
    }

    /** Return the bytes of a frame of a server. */
    public static function frame(int $first, string $payload): string
    {
        $size = strlen($payload);
        $length = $size < 126 ? chr($size) : ($size < 65536 ? chr(126) . pack('n', $size) : chr(127) . pack('J', $size));
        return chr($first) . $length . $payload;
    }

    protected function begin(): void
    {
        $this->isOpen = false;
    }

    protected function read(): void
    {
        if (!$this->isOpen && !$this->open()) {
            return;
        }
        while (strlen($this->input) >= 6) {
            $length = ord($this->input[1]) & 0x7F;
            $head = 2;
            if ($length === 126) {
                $length = unpack('n', $this->input, 2)[1];
                $head = 4;
            }
            if (strlen($this->input) < $head + 4 + $length) {
                return;
            }
            $payload = substr($this->input, $head + 4, $length) ^ str_pad('', $length, substr($this->input, $head, 4));
            $opcode = ord($this->input[0]) & 0x0F;
            $this->input = substr($this->input, $head + 4 + $length);
            if ($opcode === 1) {
                $this->act(json_decode($payload, true, 512, JSON_THROW_ON_ERROR));
            } else {
                $this->controls[] = [$opcode, $payload];
                if ($opcode === 8) {
                    $this->raw(self::frame(0x88, substr($payload, 0, 2)));
                    return;
                }
            }
        }
    }

    private function open(): bool
    {
        $end = strpos($this->input, "\r\n\r\n");
        if ($end === false) {
            return false;
        }
        $this->requests[] = $request = substr($this->input, 0, $end);
        $this->input = substr($this->input, $end + 4);
        if ($this->isProxy && str_starts_with($request, 'CONNECT ')) {
            $this->raw("HTTP/1.1 200 Connection established\r\n\r\n");
            return false;
        }
        $response = array_shift($this->handshakes);
        if ($response !== null) {
            $this->raw($response);
            $this->cut();
            return false;
        }
        preg_match('/^Sec-WebSocket-Key: (.+)$/mi', str_replace("\r", '', $request), $key);
        $accept = base64_encode(sha1($key[1] . '258EAFA5-E914-47DA-95CA-C5AB0DC85B11', true));
        $this->raw("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            . "Sec-WebSocket-Accept: $accept\r\n\r\n");
        return $this->isOpen = true;
    }

    /** @param array<string, mixed> $action */
    private function act(array $action): void
    {
        $this->actions[] = $action;
        $answer = $this->answers === [] ? ['ret' => 'ok'] : array_shift($this->answers);
        if (isset($action['pat']) && $answer === ['ret' => 'ok']) {
            $answer = ['ret' => (new \Realizehit\Pattern($action['pat']))->id];
        }
        if ($answer !== null) {
            $this->send(json_encode(['id' => $action['id']] + $answer, JSON_THROW_ON_ERROR));
        }
        if ($this->afterAction !== null) {
            ($this->afterAction)($action);
        }
    }
}

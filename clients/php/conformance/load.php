<?php

/**
 * Receives messages for the load test of the conformance kit: with the client, or with a socket and a minimal reader of frames.
 *
 * The reader does what RFC 6455 demands of the receiver of whole messages: it checks FIN, the reserved bits, the opcode, the
 * mask, the length and UTF-8, and fails on anything else. It does not know fragments and control frames, which the server does
 * not send in this test.
 */

declare(strict_types=1);

require __DIR__ . '/../autoload.php';

use Realizehit\Message;
use Realizehit\WebSocketClient;

const STEP = 1000; // messages from one line of the output to the next

[, $mode, $url, $end, $queue] = $argv;
$end = (int) $end;
$count = 0;
$take = static function (?Message $message = null) use (&$count, $end): void {
    if (++$count % STEP === 0 || $count === $end) {
        echo "$count\n";
    }
};

if ($mode === 'client') {
    $client = new WebSocketClient($url, proxy: '', queue: (int) $queue);
    $client->subscribe(['kind' => 'load'], $take);
    echo "ready\n";
    while ($count < $end) {
        $client->poll(1.0);
    }
    $client->close();
    exit(0);
}

$parts = parse_url($url);
$socket = stream_socket_client("tcp://{$parts['host']}:{$parts['port']}");
$key = base64_encode(random_bytes(16));
fwrite($socket, "GET {$parts['path']} HTTP/1.1\r\nHost: {$parts['host']}:{$parts['port']}\r\nUpgrade: websocket\r\n"
    . "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: $key\r\n\r\n");
$bytes = '';
while (($start = strpos($bytes, "\r\n\r\n")) === false) {
    $bytes .= fread($socket, 65536);
}
$bytes = substr($bytes, $start + 4);
$action = '{"id":"1","act":"sub","pat":{"kind":"load"}}';
$mask = random_bytes(4);
$body = $action ^ substr(str_repeat($mask, strlen($action)), 0, strlen($action));
fwrite($socket, "\x81" . chr(0x80 | strlen($action)) . $mask . $body);
$at = 0;
while ($count < $end) {
    while (strlen($bytes) - $at >= 2) {
        $first = ord($bytes[$at]);
        $length = ord($bytes[$at + 1]);
        if (($first & 0x70) !== 0 || ($first & 0x80) === 0 || ($first & 0x0f) !== 1 || $length >= 127) {
            fwrite(STDERR, "a frame that this reader does not know\n"); // also one with a mask
            exit(1);
        }
        $head = 2;
        if ($length === 126) {
            if (strlen($bytes) - $at < 4) {
                break;
            }
            $length = unpack('n', $bytes, $at + 2)[1];
            $head = 4;
            if ($length < 126) {
                fwrite(STDERR, "a length is not in its shortest form\n");
                exit(1);
            }
        }
        if (strlen($bytes) - $at < $head + $length) {
            break;
        }
        $message = substr($bytes, $at + $head, $length);
        $at += $head + $length;
        if (preg_match('//u', $message) !== 1) {
            fwrite(STDERR, "a text message is not UTF-8\n");
            exit(1);
        }
        if ($message !== '' && $message[0] === '{') {
            echo "ready\n";
        } else {
            $take();
        }
    }
    $more = $count < $end ? fread($socket, 65536) : '';
    if ($more === '' || $more === false) {
        break;
    }
    $bytes = substr($bytes, $at) . $more;
    $at = 0;
}
exit($count === $end ? 0 : 1);

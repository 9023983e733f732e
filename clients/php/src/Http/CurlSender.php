<?php

declare(strict_types=1);

namespace Realizehit\Http;

use Realizehit\Loop\BlockingWaiter;
use Realizehit\Loop\Waiter;

/**
 * Sends requests with curl, over connections that are kept alive. Proxies come from the environment, as curl reads it.
 */
final class CurlSender implements Sender
{
    /** Seconds after which an idle connection is not used again: fewer than servers and load balancers keep theirs. */
    private const MAX_IDLE = 50;
    private const POLL = 0.005;
    private const MAX_RESPONSE = 16 << 20;
    /** Errors of curl after which nothing was sent: the proxy's or the host's name, the connection, TLS. */
    private const NOT_SENT = [5, 6, 7, 35, 60, 77];
    /** Those of them that do not go away: a certificate that is not valid, or a file of certificates that cannot be read. */
    private const LASTING = [60, 77];

    private readonly \CurlMultiHandle $multi;
    /** @var array<int, int> results of transfers that are done, by the object id of their handles */
    private array $done = [];

    /**
     * @param float $timeout seconds for one request.
     * @param string|null $caFile file of the certificates that are trusted; null for the system's.
     * @param Waiter|null $waiter how to wait; null to block.
     */
    public function __construct(
        private readonly float $timeout = 10.0,
        private readonly ?string $caFile = null,
        private readonly ?Waiter $waiter = null,
    ) {
        $this->multi = curl_multi_init();
    }

    public function send(string $method, string $url, array $headers, string $body): Response
    {
        $at = 0;
        $retryAfter = null;
        $received = '';
        $handle = curl_init($url);
        if ($handle === false) {
            throw new SendFailed('curl cannot be used', false, false);
        }
        $lines = ['Expect:', 'Accept: application/json'];
        foreach ($headers as $name => $value) {
            $lines[] = "$name: $value";
        }
        // The body comes from a function that cannot begin again, so that curl does not repeat a request that a kept
        // connection may have carried: that could publish twice.
        $upload = $method === 'GET' ? [] : [
            CURLOPT_CUSTOMREQUEST => $method,
            CURLOPT_UPLOAD => true,
            CURLOPT_INFILESIZE => strlen($body),
            CURLOPT_READFUNCTION => static function ($handle, $file, int $length) use ($body, &$at): string {
                $piece = substr($body, $at, $length);
                $at += strlen($piece);
                return $piece;
            },
        ];
        curl_setopt_array($handle, $upload + [
            CURLOPT_HTTPHEADER => $lines,
            CURLOPT_HTTP_VERSION => CURL_HTTP_VERSION_1_1,
            CURLOPT_PROTOCOLS => CURLPROTO_HTTP | CURLPROTO_HTTPS,
            CURLOPT_FOLLOWLOCATION => false,
            CURLOPT_TIMEOUT_MS => max(1, (int) ($this->timeout * 1000)),
            CURLOPT_NOSIGNAL => true,
            CURLOPT_MAXAGE_CONN => self::MAX_IDLE,
            CURLOPT_SSL_VERIFYPEER => true,
            CURLOPT_SSL_VERIFYHOST => 2,
            CURLOPT_HEADERFUNCTION => static function ($handle, string $line) use (&$retryAfter): int {
                if (stripos($line, 'retry-after:') === 0) {
                    $retryAfter = trim(substr($line, strlen('retry-after:')));
                }
                return strlen($line);
            },
            CURLOPT_WRITEFUNCTION => static function ($handle, string $bytes) use (&$received): int {
                $received .= $bytes;
                return strlen($received) > self::MAX_RESPONSE ? 0 : strlen($bytes);
            },
        ] + ($this->caFile === null ? [] : [CURLOPT_CAINFO => $this->caFile]));
        curl_multi_add_handle($this->multi, $handle);
        try {
            $result = $this->finish($handle);
            if ($result !== CURLE_OK) {
                throw $this->failure($handle, $result);
            }
            return new Response(curl_getinfo($handle, CURLINFO_RESPONSE_CODE), $retryAfter, $received);
        } finally {
            curl_multi_remove_handle($this->multi, $handle);
        }
    }

    /** Work until one transfer is done; several fibers may do so at once. */
    private function finish(\CurlHandle $handle): int
    {
        $id = spl_object_id($handle);
        while (true) {
            curl_multi_exec($this->multi, $running);
            while (($info = curl_multi_info_read($this->multi)) !== false) {
                $this->done[spl_object_id($info['handle'])] = $info['result'];
            }
            if (isset($this->done[$id])) {
                $result = $this->done[$id];
                unset($this->done[$id]);
                return $result;
            }
            if ($this->waiter === null || $this->waiter instanceof BlockingWaiter) {
                curl_multi_select($this->multi, 1.0);
            } else {
                $this->waiter->wait([], [], self::POLL); // curl does not tell PHP its sockets
            }
        }
    }

    private function failure(\CurlHandle $handle, int $result): SendFailed
    {
        $text = curl_error($handle) ?: (string) curl_strerror($result);
        $isLate = $result === CURLE_OPERATION_TIMEDOUT;
        $wasSent = !in_array($result, self::NOT_SENT, true)
            && !($isLate && curl_getinfo($handle, CURLINFO_PRETRANSFER_TIME) == 0);
        return new SendFailed($text, $wasSent, !in_array($result, self::LASTING, true));
    }
}

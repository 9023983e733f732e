<?php

declare(strict_types=1);

namespace Realizehit;

use Psr\Log\LoggerInterface;
use Realizehit\Exception\BadPatternException;
use Realizehit\Exception\BadRequestException;
use Realizehit\Exception\PublishUnclearException;
use Realizehit\Exception\RateLimitedException;
use Realizehit\Exception\RealizehitException;
use Realizehit\Exception\UnavailableException;
use Realizehit\Http\CurlSender;
use Realizehit\Http\Response;
use Realizehit\Http\Sender;
use Realizehit\Http\SendFailed;
use Realizehit\Internal\Backoff;
use Realizehit\Loop\BlockingWaiter;
use Realizehit\Loop\Waiter;

/**
 * Publishes over HTTP.
 *
 *     $api = new ApiClient('http://127.0.0.1:8080/');
 *     $api->publish(['kind' => 'news'], ['title' => 'hello']);
 *
 * Each publication has an idempotency key, so that the server publishes a repeated one once. A request is tried three times at
 * most: it is repeated if it could not be sent, if its answer was lost, and after 429 and 503.
 */
final class ApiClient
{
    private const TRIES = 3;
    /** Seconds after the first try within which a message that may be published is sent again; servers keep its key for 120. */
    private const REPEAT_WITHIN = 60;
    /** Messages of one batch request. */
    private const MAX_BATCH = 10_000;
    /** Bytes of one batch request; the servers' default bound is 4 MiB. */
    private const MAX_BATCH_BYTES = 4_000_000;

    private readonly string $url;
    private readonly Sender $sender;
    private readonly Backoff $backoff;
    private readonly Waiter $waiter;

    /**
     * @param string $url the API's address with its prefix, `http://` or `https://`.
     * @param string|null $key an API key.
     * @param float $timeout seconds for one request, and the longest `Retry-After` that is waited for.
     * @param float $backoffBase seconds, the first bound of the delay before a retry.
     * @param bool $retryUnclear whether to try again also if the server may have published the message: its answer was lost, or
     *   was a 503 without `Retry-After`. False is for servers that do not keep idempotency keys: they could publish it twice.
     * @param string|null $caFile file of the certificates that are trusted; null for the system's.
     * @param Sender|null $sender sends the requests, such as a `Psr18Sender`; null for curl.
     * @param LoggerInterface|null $logger gets what is retried; never a key.
     * @param Waiter|null $waiter how to wait; null to block.
     * @throws \ValueError an argument cannot be used.
     */
    public function __construct(
        string $url,
        #[\SensitiveParameter] private readonly ?string $key = null,
        private readonly float $timeout = 10.0,
        float $backoffBase = 0.25,
        private readonly bool $retryUnclear = true,
        ?string $caFile = null,
        ?Sender $sender = null,
        private readonly ?LoggerInterface $logger = null,
        ?Waiter $waiter = null,
    ) {
        $parts = parse_url($url);
        $scheme = is_array($parts) ? strtolower($parts['scheme'] ?? '') : '';
        if (!in_array($scheme, ['http', 'https'], true) || ($parts['host'] ?? '') === '' || isset($parts['query'])) {
            throw new \ValueError('the address of an API begins with http:// or https://, has a host, and no query');
        }
        if ($key !== null && preg_match('/^[\x21-\x7e]+$/D', $key) !== 1) {
            throw new \ValueError('the API key is not a text of visible ASCII characters');
        }
        if (min($timeout, $backoffBase) <= 0) {
            throw new \ValueError('times must be greater than 0');
        }
        $this->url = rtrim($url, '/') . '/';
        $this->backoff = new Backoff($backoffBase, $timeout);
        $this->waiter = $waiter ?? new BlockingWaiter();
        $this->sender = $sender ?? new CurlSender($timeout, $caFile, $this->waiter);
    }

    /**
     * Publish one message.
     *
     * @param array<int|string, string|int|float|bool>|object $pattern its filters.
     * @param mixed $payload a value that `json_encode` writes, or a `RawJson` that is published byte for byte.
     * @param string|null $key an idempotency key; null for one that the client makes.
     * @throws BadPatternException the pattern breaks a rule, or has a wildcard.
     * @throws BadRequestException the payload cannot be written as JSON.
     * @throws PublishUnclearException it is not known whether it was published.
     * @throws RealizehitException the server refuses it, or cannot be reached; nothing was published.
     */
    public function publish(array|object $pattern, mixed $payload, ?string $key = null): PublishResult
    {
        $publication = new Publication($pattern, $payload, $key);
        $headers = ['Idempotency-Key' => $key ?? self::newKey()];
        $answer = $this->request('', $headers, self::written($publication));
        return PublishResult::read($answer) ?? throw self::unclear('the answer is not that of an API');
    }

    /**
     * Publish many messages, in order, by one request for up to 10,000 of them.
     *
     * @param iterable<Publication|array{pattern: mixed, payload: mixed, key?: string|null}> $publications they may come from a
     *   generator; a batch is sent when it is full.
     * @return list<PublishResult|RealizehitException> an outcome for each message: a refusal is returned, not thrown. If a
     *   request fails, its messages have the same error. A message that is malformed is not sent.
     */
    public function publishMany(iterable $publications): array
    {
        $outcomes = [];
        $batch = [];
        $bytes = 0;
        $count = 0;
        foreach ($publications as $publication) {
            $index = $count++;
            try {
                $publication = $publication instanceof Publication ? $publication : Publication::from($publication);
                $text = self::written($publication, $publication->key ?? self::newKey());
            } catch (RealizehitException $error) {
                $outcomes[$index] = $error;
                continue;
            }
            if (count($batch) === self::MAX_BATCH || ($batch !== [] && $bytes + strlen($text) > self::MAX_BATCH_BYTES)) {
                $outcomes += $this->sendBatch($batch);
                $batch = [];
                $bytes = 0;
            }
            $batch[$index] = $text;
            $bytes += strlen($text) + 1;
        }
        $outcomes += $batch === [] ? [] : $this->sendBatch($batch);
        ksort($outcomes);
        return array_values($outcomes);
    }

    /**
     * Read messages of a pattern that has a history: the last ones, or those after a position.
     *
     * @param array<int|string, string|int|float|bool>|object $pattern its filters.
     * @param int|null $last how many; give either this or `since`.
     * @param string|null $since a position.
     * @throws \ValueError both of them are given, or none.
     * @throws BadPatternException the pattern breaks a rule.
     * @throws RealizehitException the server refuses it, by the code `no-history` if no rule keeps a history of the pattern, or
     *   cannot be reached.
     */
    public function history(array|object $pattern, ?int $last = null, ?string $since = null): History
    {
        if (($last === null) === ($since === null)) {
            throw new \ValueError('give one of last and since');
        }
        $pattern = $pattern instanceof Pattern ? $pattern : new Pattern($pattern);
        $flags = JSON_THROW_ON_ERROR | JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES;
        $query = ['pat' => json_encode($pattern, $flags), 'last' => $last, 'since' => $since];
        $path = 'history?' . http_build_query($query, encoding_type: PHP_QUERY_RFC3986);
        $answer = $this->request($path, [], '', 'GET');
        return History::read($answer) ?? throw new UnavailableException('the answer is not a history', 'unavailable');
    }

    /**
     * @param array<int, string> $batch messages as JSON, by their indexes.
     * @return array<int, PublishResult|RealizehitException>
     */
    private function sendBatch(array $batch): array
    {
        try {
            $answer = $this->request('batch', [], '{"messages":[' . implode(',', $batch) . ']}');
        } catch (RealizehitException $error) {
            return array_fill_keys(array_keys($batch), $error);
        }
        $results = is_array($answer['results'] ?? null) ? array_values($answer['results']) : [];
        if (count($results) !== count($batch)) {
            $text = sprintf('the server answered %d messages with %d results', count($batch), count($results));
            return array_fill_keys(array_keys($batch), self::unclear($text));
        }
        return array_combine(array_keys($batch), array_map(self::outcome(...), $results));
    }

    private static function outcome(mixed $result): PublishResult|RealizehitException
    {
        if (is_array($result) && ($result['status'] ?? null) === 'error') {
            $text = is_string($result['detail'] ?? null) ? $result['detail'] : 'the server refused the message';
            return RealizehitException::fromServer($text, is_string($result['code'] ?? null) ? $result['code'] : '');
        }
        return PublishResult::read($result) ?? self::unclear('the server gave a result that is not one');
    }

    /**
     * Send a request, again where that is safe, and return the decoded answer.
     *
     * @param array<string, string> $headers
     * @return array<int|string, mixed>
     * @throws RealizehitException
     */
    private function request(string $path, array $headers, string $body, string $method = 'POST'): array
    {
        $publishes = $method === 'POST';
        $retryUnclear = $this->retryUnclear || !$publishes;
        if ($publishes) {
            $headers['Content-Type'] = 'application/json';
        }
        if ($this->key !== null) {
            $headers['Authorization'] = "Bearer $this->key";
        }
        $start = hrtime(true);
        $unclear = null;
        for ($try = 1;; $try++) {
            $delay = $this->backoff->delay($try - 1);
            try {
                $response = $this->sender->send($method, $this->url . $path, $headers, $body);
                $answer = $response->status === 200 ? json_decode($response->body, true) : null;
                if (is_array($answer)) {
                    return $answer;
                }
                $error = self::refusal($response);
                $asked = self::retryAfter($response);
                $delay = $asked ?? $delay;
                $mayRepeat = match ($response->status) {
                    429 => true,
                    503 => $asked !== null || $retryUnclear,
                    200 => $retryUnclear, // half an answer
                    default => false,
                };
            } catch (SendFailed $failed) {
                $text = $failed->getMessage();
                $error = $failed->wasSent
                    ? self::unclear($text, previous: $failed)
                    : new UnavailableException("the server cannot be reached: $text", 'unavailable', null, $failed);
                $mayRepeat = $failed->mayRepeat && (!$failed->wasSent || $retryUnclear);
            }
            if ($error instanceof PublishUnclearException) {
                $unclear = $error;
                if (!$publishes) {
                    $text = "the answer did not come: {$error->getMessage()}";
                    $error = $unclear = new UnavailableException($text, 'unavailable', $error->status, $error);
                }
            }
            $isLate = $unclear !== null && (hrtime(true) - $start) / 1e9 + $delay > self::REPEAT_WITHIN;
            if (!$mayRepeat || $try === self::TRIES || $delay > $this->timeout || $isLate) {
                // A try that published nothing does not say that an earlier one did not.
                $isRefused = $error instanceof UnavailableException || $error instanceof RateLimitedException;
                throw $isRefused ? $unclear ?? $error : $error;
            }
            $this->logger?->info('realizehit: trying again in {delay} s: {error}', [
                'delay' => round($delay, 3), 'error' => $error->getMessage(),
            ]);
            $this->pause($delay);
        }
    }

    private function pause(float $seconds): void
    {
        $end = hrtime(true) / 1e9 + $seconds;
        while (($left = $end - hrtime(true) / 1e9) > 0) {
            $this->waiter->wait([], [], $left);
        }
    }

    private static function refusal(Response $response): RealizehitException
    {
        $problem = json_decode($response->body, true);
        $problem = is_array($problem) ? $problem : [];
        $code = is_string($problem['code'] ?? null) ? $problem['code'] : '';
        $text = is_string($problem['detail'] ?? null) ? $problem['detail'] : "the server answered with $response->status";
        $isUnclear = match ($response->status) {
            200, 500, 504 => true, // the server, or a proxy before it, failed after it had taken the request
            502 => $code === '',
            503 => self::retryAfter($response) === null,
            default => false,
        };
        return $isUnclear
            ? self::unclear($text, $code, $response->status)
            : RealizehitException::fromServer($text, $code, $response->status);
    }

    private static function unclear(
        string $text,
        string $code = '',
        ?int $status = null,
        ?\Throwable $previous = null,
    ): PublishUnclearException {
        return new PublishUnclearException("it is not known whether it was published: $text", $code, $status, $previous);
    }

    /** Return the seconds that `Retry-After` says; null if there is none. */
    private static function retryAfter(Response $response): ?float
    {
        $text = $response->retryAfter ?? '';
        if (preg_match('/^\d{1,9}$/D', $text) === 1) {
            return (float) $text;
        }
        $date = $text === '' ? false : strtotime($text);
        return $date === false ? null : max(0.0, (float) ($date - time()));
    }

    /**
     * @throws BadRequestException
     */
    private static function written(Publication $publication, ?string $key = null): string
    {
        try {
            return $publication->json($key);
        } catch (\JsonException $error) {
            $text = "the payload cannot be written as JSON: {$error->getMessage()}";
            throw new BadRequestException($text, 'bad-json', null, $error);
        }
    }

    private static function newKey(): string
    {
        return bin2hex(random_bytes(16));
    }
}

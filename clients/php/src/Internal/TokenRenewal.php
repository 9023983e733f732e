<?php

declare(strict_types=1);

namespace Realizehit\Internal;

use Realizehit\Exception\RealizehitException;
use Realizehit\Exception\ResponseTimeoutException;
use Realizehit\Exception\TokenException;
use Realizehit\WebSocket\Connection;

/**
 * Sends a fresh token on the present connection before the old one ends.
 *
 * @internal
 */
final class TokenRenewal
{
    private ?float $renewAt = null;
    private ?float $answerBy = null;
    private int $attempts = 0;
    /** Counts renewals, so that a late answer is not taken for that of a later one. */
    private int $number = 0;

    /**
     * @param float $timeout seconds for the server's answer.
     * @param \Closure(RealizehitException): void $failed called with the error of each attempt that failed.
     */
    public function __construct(
        private readonly Token $token,
        private readonly Link $link,
        private readonly Replies $replies,
        private readonly Backoff $backoff,
        private readonly float $timeout,
        private readonly \Closure $failed,
    ) {
    }

    /** Renew a token that ends in so many seconds, unless a renewal is under way. */
    public function start(float $seconds): void
    {
        if (!$this->token->isFresh() || $this->deadline() !== null) {
            return;
        }
        $this->attempts = 0;
        // A random delay, so that clients whose tokens end together do not renew them together.
        $this->renewAt = Connection::now() + max($seconds, 0.0) * (0.25 + mt_rand() / mt_getrandmax() / 4);
    }

    /** The connection is lost: the next one is opened with a fresh token. */
    public function stop(): void
    {
        $this->renewAt = null;
        $this->answerBy = null;
        $this->number++;
    }

    /** When `turn` has something to do; null if never. */
    public function deadline(): ?float
    {
        return $this->renewAt ?? $this->answerBy;
    }

    /** Send the token, or notice that the answer did not come. */
    public function turn(): void
    {
        $now = Connection::now();
        if ($this->answerBy !== null && $now >= $this->answerBy) {
            $this->again(new ResponseTimeoutException("no answer to auth within $this->timeout seconds"));
        } elseif ($this->renewAt !== null && $now >= $this->renewAt) {
            $this->renewAt = null;
            try {
                $token = $this->token->current();
            } catch (TokenException $error) {
                $this->again($error);
                return;
            }
            $number = ++$this->number;
            $this->answerBy = $now + $this->timeout;
            $id = $this->replies->expect(function (?array $reply) use ($number): void {
                if ($reply !== null && $number === $this->number) {
                    $this->answered($reply);
                }
            });
            $this->link->send(['id' => $id, 'act' => 'auth', 'token' => $token]);
        }
    }

    /**
     * @param array<string, mixed> $reply
     */
    private function answered(array $reply): void
    {
        $this->answerBy = null;
        if (isset($reply['err'])) {
            $text = is_string($reply['err']) ? $reply['err'] : 'the server refuses the token';
            $this->again(RealizehitException::fromServer($text, is_string($reply['code'] ?? null) ? $reply['code'] : ''));
        }
    }

    private function again(RealizehitException $error): void
    {
        $this->answerBy = null;
        $this->number++;
        $this->renewAt = Connection::now() + $this->backoff->delay($this->attempts++);
        ($this->failed)($error);
    }
}

<?php

declare(strict_types=1);

namespace Realizehit\Internal;

use Realizehit\Exception\DisconnectedException;
use Realizehit\Exception\NotAuthenticatedException;
use Realizehit\Exception\RealizehitException;
use Realizehit\WebSocket\Connection;

/**
 * Keeps one connection to the server: connects, checks that the server is alive, and connects again after a delay.
 *
 * @internal
 */
final class Link
{
    /** Seconds after which a connection counts as a success, the same in every realizehit client. */
    private const STABLE_AFTER = 10.0;
    private const DRAIN = 4001;
    private const EXPIRED = 4501;

    private ?Connection $connection = null;
    private bool $isOpen = false;
    private float $openedAt = 0.0;
    private ?float $retryAt = null;
    private ?float $pingedAt = null;
    private bool $isFirst = true;

    /**
     * @param \Closure(): Connection $connect begins a connection; it may throw a RealizehitException.
     * @param float $heartbeat seconds of silence after which a connection is given up.
     * @param bool $hasFreshTokens whether another token can be had after the present one has expired.
     */
    public function __construct(
        private readonly \Closure $connect,
        private readonly Backoff $backoff,
        private readonly float $heartbeat,
        private readonly bool $hasFreshTokens,
        private readonly Incoming $incoming,
        private readonly LinkHandler $handler,
    ) {
    }

    /** Connect now. The first attempt is not repeated if it fails. */
    public function start(): void
    {
        $this->isFirst = true;
        $this->retryAt = 0.0;
    }

    /** Whether there is a connection, or will be one. */
    public function isRunning(): bool
    {
        return $this->connection !== null || $this->retryAt !== null;
    }

    /** Whether no attempt has succeeded yet. */
    public function hasNeverOpened(): bool
    {
        return $this->isFirst;
    }

    public function isOpen(): bool
    {
        return $this->isOpen;
    }

    /** @return list<resource> */
    public function reads(): array
    {
        return $this->connection?->reads() ?? [];
    }

    /** @return list<resource> */
    public function writes(): array
    {
        return $this->connection?->writes() ?? [];
    }

    /** When `advance` must be called at the latest; null if there is no such time. */
    public function deadline(): ?float
    {
        if ($this->connection === null) {
            return $this->retryAt;
        }
        if ($this->connection->hasMore || !$this->incoming->isEmpty()) {
            return 0.0;
        }
        return $this->isOpen
            ? ($this->pingedAt ?? $this->connection->heardAt) + $this->heartbeat / 2
            : $this->connection->deadline();
    }

    /**
     * Send an action; it goes out with the next `flush`.
     *
     * @param array<string, mixed> $action
     */
    public function send(array $action): void
    {
        $this->connection?->send(json_encode($action, JSON_THROW_ON_ERROR | JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES));
    }

    public function flush(): void
    {
        $this->connection?->flush();
    }

    /**
     * Do what can be done without waiting.
     *
     * @param (\Closure(): bool)|null $isEnough whether a reader has what it waits for: then the messages that are left stay for
     *   the next call, and nothing more is read before.
     */
    public function advance(?\Closure $isEnough = null): void
    {
        if (!$this->incoming->handle($isEnough)) {
            return;
        }
        if ($this->connection === null) {
            if ($this->retryAt === null || Connection::now() < $this->retryAt) {
                return;
            }
            $this->retryAt = null;
            try {
                $this->connection = ($this->connect)();
            } catch (RealizehitException $error) {
                $this->failed($error);
                return;
            }
        }
        $connection = $this->connection;
        $texts = $connection->advance();
        if ($connection->wasOpened && !$this->isOpen) {
            $this->isOpen = true;
            $this->isFirst = false;
            $this->openedAt = Connection::now();
            $this->pingedAt = null;
            ($this->handler->opened)();
        }
        if ($this->connection === $connection && $texts !== []) {
            $this->incoming->add($texts);
        }
        if (!$this->incoming->handle($isEnough)) {
            return;
        }
        if ($this->connection === $connection && !$connection->isClosed() && $this->isOpen) {
            $this->checkAlive($connection);
            $connection->flush();
        }
        if ($this->connection === $connection && $connection->isClosed()) {
            $this->ended($connection);
        }
    }

    /** End the connection with the code 1000, and make no other one. Return what is left to be waited for. */
    public function stop(): ?Connection
    {
        $connection = $this->connection;
        $this->connection = null;
        $this->isOpen = false;
        $this->retryAt = null;
        $this->incoming->clear();
        $connection?->close();
        return $connection;
    }

    private function checkAlive(Connection $connection): void
    {
        // What has come was read before: time in which the program did something else does not count.
        $now = Connection::now();
        if ($this->pingedAt !== null && $connection->heardAt >= $this->pingedAt) {
            $this->pingedAt = null;
        }
        if ($this->pingedAt === null) {
            if ($now - $connection->heardAt >= $this->heartbeat / 2) {
                $connection->ping();
                $this->pingedAt = $now;
            }
        } elseif ($now - $this->pingedAt >= $this->heartbeat / 2) {
            $connection->abort(new DisconnectedException('the server is silent'));
        }
    }

    private function ended(Connection $connection): void
    {
        $error = $connection->error ?? new DisconnectedException('the connection was lost');
        $wasOpen = $this->isOpen;
        $this->connection = null;
        $this->isOpen = false;
        if (!$wasOpen) {
            $this->failed($error);
            return;
        }
        if (Connection::now() - $this->openedAt >= self::STABLE_AFTER) {
            $this->backoff->reset();
        }
        $code = $connection->closeCode;
        $isFinal = $code !== null && $code >= 4500 && $code <= 4999 && !($code === self::EXPIRED && $this->hasFreshTokens);
        $asked = $code === self::DRAIN && preg_match('/\bdelay=(\d{1,9})\b/', $connection->closeReason, $match) === 1;
        if (!$isFinal) {
            $this->retryLater($asked ? (int) $match[1] / 1000 : null);
        }
        ($this->handler->lost)($error, $connection->heardAt);
        if ($isFinal) {
            ($this->handler->gaveUp)($code === self::EXPIRED
                ? new NotAuthenticatedException($error->getMessage(), 'not-authenticated', $code)
                : $error);
        }
    }

    /** Note that no connection was made. */
    private function failed(RealizehitException $error): void
    {
        $this->connection = null;
        if ($this->isFirst || $error->status === 401 || $error->status === 403) {
            $this->retryAt = null;
            ($this->handler->gaveUp)($error);
            return;
        }
        $this->retryLater(null);
        ($this->handler->attemptFailed)($error);
    }

    private function retryLater(?float $requested): void
    {
        $delay = $requested === null ? $this->backoff->next() : $this->backoff->requested($requested);
        $this->retryAt = Connection::now() + $delay;
    }
}

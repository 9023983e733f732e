<?php

declare(strict_types=1);

namespace Realizehit\Conformance;

/**
 * Runs fibers, and resumes them when anything is ready: each of them looks for itself whether it can go on.
 */
final class Scheduler
{
    /** Seconds after which every fiber looks: another one may have read what it waits for. */
    private const LOOK_EVERY = 0.02;

    /** @var array<int, array{\Fiber<mixed, mixed, mixed, mixed>, mixed}> fibers and what they wait for */
    private array $fibers = [];

    /** Begin a fiber. */
    public function go(\Closure $work): void
    {
        $fiber = new \Fiber($work);
        $this->keep($fiber, $fiber->start());
    }

    /**
     * Wait until a stream or a fiber is ready, and resume the fibers.
     *
     * @param resource $input a stream to wait for besides.
     * @return bool whether it is ready.
     */
    public function turn($input): bool
    {
        $read = [$input];
        $write = [];
        $seconds = $this->fibers === [] ? 3600.0 : self::LOOK_EVERY;
        foreach ($this->fibers as [, [$reads, $writes, $until]]) {
            $read = [...$read, ...$reads];
            $write = [...$write, ...$writes];
            $seconds = min($seconds, max(0.0, $until - hrtime(true) / 1e9));
        }
        // Another fiber may have closed a stream.
        $read = array_filter($read, is_resource(...));
        $write = array_filter($write, is_resource(...));
        $except = [];
        if (@stream_select($read, $write, $except, (int) $seconds, (int) (fmod($seconds, 1.0) * 1e6)) === false) {
            $read = [];
        }
        $fibers = $this->fibers;
        $this->fibers = [];
        foreach ($fibers as [$fiber]) {
            $this->keep($fiber, $fiber->resume());
        }
        return in_array($input, $read, true);
    }

    private function keep(\Fiber $fiber, mixed $waiting): void
    {
        if (!$fiber->isTerminated()) {
            $this->fibers[spl_object_id($fiber)] = [$fiber, $waiting];
        }
    }
}

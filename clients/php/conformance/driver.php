<?php

/**
 * The driver of the PHP client for the conformance kit.
 */

declare(strict_types=1);

use Realizehit\Conformance\Commands;
use Realizehit\Conformance\FiberWaiter;
use Realizehit\Conformance\Scheduler;
use Realizehit\Version;

require __DIR__ . '/../autoload.php';
require __DIR__ . '/FiberWaiter.php';
require __DIR__ . '/Scheduler.php';
require __DIR__ . '/Commands.php';

ini_set('memory_limit', '512M');
ini_set('display_errors', 'stderr');
stream_set_blocking(STDIN, false);
Commands::write('hello', protocol: 1, language: 'php', version: Version::NUMBER);
$scheduler = new Scheduler();
$commands = new Commands($scheduler, new FiberWaiter());
$input = '';
while (true) {
    if (!$scheduler->turn(STDIN)) {
        continue;
    }
    $bytes = fread(STDIN, 1 << 20);
    if ($bytes === '' || $bytes === false) {
        break;
    }
    $input .= $bytes;
    $lines = explode("\n", $input);
    $input = array_pop($lines);
    foreach ($lines as $line) {
        // Integers of more than 64 bits become texts: PHP has no type for them.
        $command = json_decode($line, false, 512, JSON_THROW_ON_ERROR | JSON_BIGINT_AS_STRING);
        $scheduler->go(static fn () => $commands->run($command));
    }
}
$scheduler->go(static fn () => $commands->doReset());

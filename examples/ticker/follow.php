<?php

/**
 * Follow the ticker from PHP: php examples/ticker/follow.php [--ws URL] [SYMBOL...]
 */

declare(strict_types=1);

require __DIR__ . '/../../clients/php/autoload.php';

use Realizehit\Gap;
use Realizehit\Message;
use Realizehit\WebSocketClient;

$options = getopt('', ['ws:'], $rest);
$symbols = array_slice($argv, $rest) ?: ['*'];
$client = new WebSocketClient($options['ws'] ?? 'ws://127.0.0.1:8080/ws');
$show = static function (Message $message): void {
    $price = $message->payload();
    printf("%s  %-5s %8.2f\n", $price['date'], $message->pattern()['symbol'], $price['price']);
};
$warn = static function (Gap $gap): void {
    fprintf(STDERR, "away for %.1f s: prices may be missing\n", $gap->seconds);
};
foreach ($symbols as $symbol) {
    $client->subscribe(['kind' => 'stock', 'symbol' => strtoupper($symbol)], $show, ['gap' => $warn]);
}
$client->run();

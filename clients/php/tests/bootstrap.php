<?php

declare(strict_types=1);

if (is_file(__DIR__ . '/../vendor/autoload.php')) {
    require __DIR__ . '/../vendor/autoload.php';
    return;
}
require __DIR__ . '/../autoload.php';
spl_autoload_register(static function (string $class): void {
    if (str_starts_with($class, 'Realizehit\\Tests\\')) {
        require __DIR__ . '/' . strtr(substr($class, strlen('Realizehit\\Tests\\')), '\\', '/') . '.php';
    }
});
// Debian's packages of the interfaces, where Composer's are not installed.
foreach (['Psr/Log', 'Psr/Http/Client', 'Psr/Http/Message', 'GuzzleHttp/Psr7'] as $package) {
    if (is_file("/usr/share/php/$package/autoload.php")) {
        require_once "/usr/share/php/$package/autoload.php";
    }
}

<?php

/**
 * Loads the classes of this package where Composer does not: for its own tests, and for programs without Composer.
 */

declare(strict_types=1);

spl_autoload_register(static function (string $class): void {
    if (str_starts_with($class, 'Realizehit\\')) {
        $file = __DIR__ . '/src/' . strtr(substr($class, strlen('Realizehit\\')), '\\', '/') . '.php';
        if (is_file($file)) {
            require $file;
        }
    }
});
